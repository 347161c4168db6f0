//! All errors of a body's shape at once: missing, unknown and double fields, and fields of the wrong type.
//!
//! What a type wants is asked of the type itself, a field at a time, so that nothing is said twice. This costs more than
//! reading, and is done only for a body that was refused.
//!
//! Invariant: at most one error more than a problem lists, and the work is bounded by that.

use crate::http::error::{FIELD_ERRORS_MAX, FieldError};
use crate::http::json::{field_error, names_in, quoted};
use crate::http::params::unknown_name;
use serde::Deserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::fmt;

/// The errors of shape of the object in `raw`, in the order of its fields; what is missing comes last. One for each field:
/// within a field the first is told.
///
/// # Errors
/// `raw` is no JSON.
pub fn all_errors<T: DeserializeOwned>(raw: &[u8]) -> serde_json::Result<Vec<FieldError>> {
    let Pairs(pairs) = serde_json::from_slice(raw)?;
    let known = known_fields::<T>();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let mut seen = HashSet::new();
    let mut errors = Vec::new();
    for (name, value) in &pairs {
        if errors.len() > FIELD_ERRORS_MAX {
            return Ok(errors);
        }
        if !known.contains(&name.as_str()) {
            errors.push(FieldError::field(&[name], unknown_name("field", name, &known)));
        } else if !seen.insert(name.as_str()) {
            errors.push(FieldError::field(&[name], "stands twice; give it once"));
        } else {
            errors.extend(error_of::<T>(name, value.clone()));
        }
    }
    let is_missing = |name: &&&str| !seen.contains(*name) && error_of::<T>(name, Value::Null).is_some();
    errors.extend(known.iter().filter(is_missing).map(|name| FieldError::field(&[name], "is missing")));
    Ok(errors)
}

/// What is wrong with a field that stands alone; that others are missing does not count.
fn error_of<T: DeserializeOwned>(name: &str, value: Value) -> Option<FieldError> {
    let alone = Value::Object(Map::from_iter([(name.to_owned(), value)]));
    let error = serde_path_to_error::deserialize::<_, T>(alone).err()?;
    error.path().iter().next()?;
    Some(field_error(&error))
}

/// The fields of a type that denies unknown ones, as serde names them to who gives one.
fn known_fields<T: DeserializeOwned>() -> Vec<String> {
    let strange = Value::Object(Map::from_iter([("\0".to_owned(), Value::Null)]));
    let error = serde_json::from_value::<T>(strange).err().map(|e| e.to_string()).unwrap_or_default();
    names_in(quoted(&error).2).into_iter().map(str::to_owned).collect()
}

/// An object's fields as they stand, double ones too.
struct Pairs(Vec<(String, Value)>);

impl<'de> serde::Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pairs, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    // What is beyond is not told; it is read to its end, for it may be no JSON.
                    if pairs.len() <= 2 * FIELD_ERRORS_MAX {
                        pairs.push(pair);
                    }
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::json::tests::Body;

    fn errors(body: &str) -> Vec<String> {
        let errors = all_errors::<Body>(body.as_bytes()).expect("JSON");
        errors.into_iter().map(|e| format!("{} {}", e.pointer.unwrap_or_default(), e.detail)).collect()
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let expected = [
            "/nme is no known field; did you mean `name`?",
            "/headers has the wrong type: integer `5`, expected a map",
            "/count has the wrong type: string \"x\", expected u32",
            "/headers stands twice; give it once",
            "/name is missing",
        ];
        assert_eq!(errors(r#"{"nme":"a","headers":5,"count":"x","headers":null}"#), expected);
        assert_eq!(errors("{}"), ["/name is missing"]);
    }

    #[test]
    fn of_a_thousand_unknown_fields_only_the_first_are_told() {
        let fields: Vec<String> = (0..1_000).map(|n| format!("\"x{n}\":1")).collect();
        assert_eq!(errors(&format!("{{{}}}", fields.join(","))).len(), FIELD_ERRORS_MAX + 1);
    }
}
