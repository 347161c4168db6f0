//! Users: register, list, show.
//!
//! Invariant: an address names one user of an organization, whatever its case.

use crate::http::error::{ApiError, Code, FieldError, created};
use crate::http::json::JsonBody;
use crate::http::paging::Page;
use crate::http::params::Params;
use crate::http::time::rfc3339;
use crate::model::address::Address;
use crate::model::name::UserNumber;
use crate::model::user::{Backfill, NewUser, User};
use crate::warmup::api::state::{Api, Member};
use crate::warmup::store::Registered;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The longest name in characters.
pub const NAME_CHARS_MAX: usize = 200;

/// The body of `POST /register`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterBody {
    /// 1 to 200 characters, no control characters.
    #[schema(min_length = 1, max_length = 200, example = "Alice")]
    name: String,
    /// The user's address; it compares without case.
    #[schema(max_length = 254, example = "alice@example.com")]
    email_id: String,
}

/// A user.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserAnswer {
    name: String,
    /// The user's address, as it was first registered.
    email_id: String,
    /// RFC 3339, UTC.
    #[schema(format = DateTime)]
    created_at: String,
}

/// A user with his back-fill.
#[derive(Debug, Serialize, ToSchema)]
pub struct OneUserAnswer {
    #[serde(flatten)]
    user: UserAnswer,
    backfill: BackfillAnswer,
}

/// How far the earlier emails have come.
#[derive(Debug, Serialize, ToSchema)]
pub struct BackfillAnswer {
    /// The earlier emails that the user gets.
    emails: i64,
    /// How many of them are final.
    done: i64,
    /// `none`, `running` or `done`.
    state: &'static str,
    /// When the next one may start; RFC 3339, UTC.
    next_at: Option<String>,
}

impl From<User> for UserAnswer {
    fn from(user: User) -> UserAnswer {
        UserAnswer { name: user.name, email_id: user.address.to_string(), created_at: rfc3339(user.created_at) }
    }
}

impl From<Backfill> for BackfillAnswer {
    fn from(of: Backfill) -> BackfillAnswer {
        BackfillAnswer { emails: of.emails, done: of.done, state: of.state.as_str(), next_at: of.next_at.map(rfc3339) }
    }
}

/// Tells what is wrong with a user's name.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    // Octets bound characters from above, and most names are short.
    if name.len() > NAME_CHARS_MAX && name.chars().count() > NAME_CHARS_MAX {
        return Err(format!("is longer than {NAME_CHARS_MAX} characters"));
    }
    no_controls(name)
}

/// Refuses what could end a header line or hide text.
pub fn no_controls(text: &str) -> Result<(), String> {
    match text.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, _)) => Err(format!("has a control character at byte {at}")),
        None => Ok(()),
    }
}

/// Registers a user and starts his back-fill.
///
/// The same address again answers 200 with the user as he was registered first; nothing changes.
#[utoipa::path(post, path = "/register", tag = "users", request_body = RegisterBody, responses(
    (status = 201, description = "Registered.", body = UserAnswer), (status = 200, description = "Was registered before.", body = UserAnswer)))]
pub async fn register_user(State(api): State<Api>, member: Member, body: JsonBody<RegisterBody>) -> Result<Response, ApiError> {
    let RegisterBody { name, email_id } = body.value;
    let mut errors = Vec::new();
    if let Err(problem) = check_name(&name) {
        errors.push(FieldError::field(&["name"], problem));
    }
    let address = match Address::parse(&email_id) {
        Ok(address) if errors.is_empty() => address,
        Ok(_) => return Err(ApiError::fields(errors)),
        Err(problem) => {
            errors.push(FieldError::field(&["email_id"], problem.to_string()));
            return Err(ApiError::fields(errors));
        }
    };
    match api.store.register(member.org, NewUser { name, address }, api.now()).await? {
        Registered::New(user) => {
            api.wake.notify_one();
            Ok(created(&format!("/users/{}", percent_encode(user.address.as_str())), UserAnswer::from(user)))
        }
        Registered::Existing(user) => Ok(Json(UserAnswer::from(user)).into_response()),
    }
}

/// Lists the users in the order of registration.
#[utoipa::path(get, path = "/users", tag = "users",
    params(("limit" = Option<usize>, Query, minimum = 1, maximum = 10000), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "The users.", body = [UserAnswer])))]
pub async fn list_users(State(api): State<Api>, member: Member, uri: Uri) -> Result<Response, ApiError> {
    answer_users(&api, &member, &uri, UserAnswer::from).await
}

/// Lists the addresses of all users in the order of registration.
#[utoipa::path(get, path = "/emailIds", tag = "users",
    params(("limit" = Option<usize>, Query, minimum = 1, maximum = 10000), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "The addresses.", body = [String])))]
pub async fn list_email_ids(State(api): State<Api>, member: Member, uri: Uri) -> Result<Response, ApiError> {
    answer_users(&api, &member, &uri, |user| user.address.to_string()).await
}

async fn answer_users<V: Serialize>(api: &Api, member: &Member, uri: &Uri, shape: impl Fn(User) -> V) -> Result<Response, ApiError> {
    let page = Page::read(&Params::read(uri, &["limit", "cursor"])?)?;
    let order = (page.after_number()?, |user: &User| user.number.0);
    Ok(page.answer(uri, order, |after, max| api.store.users(member.org, UserNumber(after), max), shape).await?)
}

/// Shows one user, by address, and how far his back-fill has come.
#[utoipa::path(get, path = "/users/{email_id}", tag = "users", params(("email_id" = String, Path, description = "The address.")),
    responses((status = 200, description = "The user.", body = OneUserAnswer)))]
pub async fn show_user(
    State(api): State<Api>,
    member: Member,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<OneUserAnswer>, ApiError> {
    let unknown = || ApiError::new(Code::UserUnknown, "no user has this address; GET /emailIds lists all");
    let address = path.ok().and_then(|Path(text)| Address::parse(&text).ok()).ok_or_else(unknown)?;
    let (user, backfill) = api.store.user(member.org, &address).await?.ok_or_else(unknown)?;
    Ok(Json(OneUserAnswer { user: user.into(), backfill: backfill.into() }))
}

/// Escapes all but the unreserved characters of a URI (RFC 3986 2.3).
fn percent_encode(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}
