//! Query parameters: each known, each at most once.
//!
//! Invariant: an unknown parameter is an error that names the nearest known one, never ignored.

use crate::http::error::ApiError;
use axum::extract::Query;
use axum::http::Uri;

/// The query parameters of one request.
#[derive(Debug, Default)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Reads the query of `uri`; any parameter outside `known` is an error.
    pub fn read(uri: &Uri, known: &[&str]) -> Result<Params, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| ApiError::parameter("query", "is not `name=value` pairs joined by `&`"))?;
        for (at, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                return Err(ApiError::parameter(name, unknown_name("parameter", name, known)));
            }
            if pairs[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(ApiError::parameter(name, "stands twice; give it once"));
            }
        }
        Ok(Params(pairs))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Reads a switch: absent is false; present without value, `true` and `1` are true.
    pub fn switch(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(_) => Err(ApiError::parameter(name, "must be `true` or `false`")),
        }
    }
}

/// Says that a name is unknown and which known one may be meant.
pub fn unknown_name(kind: &str, name: &str, known: &[&str]) -> String {
    let near = known.iter().map(|k| (strsim::jaro_winkler(&name.to_lowercase(), k), k)).max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((score, nearest)) if score > 0.7 => format!("is no known {kind}; did you mean `{nearest}`?"),
        Some(_) => format!("is no known {kind}; known are {}", known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")),
        None => format!("is no known {kind}; there are none here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Params, ApiError> {
        Params::read(&format!("/users?{query}").parse().expect("a URI"), &["limit", "cursor"])
    }

    #[test]
    fn an_unknown_parameter_names_the_nearest() {
        assert_eq!(read("limt=3").expect_err("must be refused").detail, "`limt` is no known parameter; did you mean `limit`?");
        assert_eq!(read("zzz=3").expect_err("must be refused").detail, "`zzz` is no known parameter; known are `limit`, `cursor`");
    }

    #[test]
    fn a_parameter_that_stands_twice_is_refused() {
        assert_eq!(read("limit=3&limit=4").expect_err("must be refused").detail, "`limit` stands twice; give it once");
    }

    #[test]
    fn values_are_percent_decoded() {
        assert_eq!(read("cursor=a%20b").expect("valid").get("cursor"), Some("a b"));
    }
}
