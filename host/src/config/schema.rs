//! The JSON Schema of each kind of file, from the tables of `format.rs`.

use crate::config::form::{Key, Table, Value};
use crate::config::format;
use serde_json::{Map, Value as Json, json};

/// The schemas by file name, as `docs/schema/` holds them.
pub fn all() -> [(&'static str, Json); 3] {
    [
        ("postwarm.schema.json", root("config/postwarm.toml", &format::PROCESS)),
        ("organization.schema.json", root("config/organizations/NAME.toml", &format::ORGANIZATION)),
        ("providers.schema.json", root("config/providers.toml", &format::PROVIDERS)),
    ]
}

fn root(title: &str, of: &Table) -> Json {
    let mut schema = Map::new();
    schema.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.insert("title".into(), title.into());
    schema.extend(table(of));
    Json::Object(schema)
}

fn table(of: &Table) -> Map<String, Json> {
    let properties: Map<String, Json> = of.keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let required: Vec<&str> = of.keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    let mut schema = Map::new();
    schema.insert("type".into(), "object".into());
    schema.insert("additionalProperties".into(), false.into());
    schema.insert("properties".into(), properties.into());
    if !required.is_empty() {
        schema.insert("required".into(), required.into());
    }
    schema
}

fn property(key: &Key) -> Json {
    let mut schema = value(&key.value);
    schema.insert("description".into(), key.about.into());
    Json::Object(schema)
}

fn value(of: &Value) -> Map<String, Json> {
    let schema = match of {
        Value::Flag => json!({ "type": "boolean" }),
        Value::Count { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Value::Real { min, max } => json!({ "type": "number", "minimum": min, "maximum": max }),
        Value::Duration { .. } => {
            json!({ "type": "string", "pattern": "^\\s*([0-9]+\\s*[A-Za-z]+\\s*)+$", "examples": ["30s", "1h", "7d"] })
        }
        Value::Text(kind) => match kind.pattern {
            Some(pattern) => json!({ "type": "string", "pattern": pattern }),
            None => json!({ "type": "string", "minLength": 1 }),
        },
        Value::Word(words) => json!({ "enum": words }),
        Value::List { of, min } => json!({ "type": "array", "items": value(of), "minItems": min }),
        Value::Table(of) => return table(of),
        Value::Named { names, of } => {
            let mut schema = Map::from_iter([("type".to_owned(), "object".into()), ("additionalProperties".to_owned(), value(of).into())]);
            if let Some(pattern) = names.pattern {
                schema.insert("propertyNames".into(), json!({ "pattern": pattern }));
            }
            return schema;
        }
        Value::Settings => json!({ "type": "object" }),
        Value::Secret => {
            let one = |key: &str| json!({ "type": "object", "properties": { key: { "type": "string" } }, "required": [key], "additionalProperties": false });
            json!({ "oneOf": [one("env"), one("file")] })
        }
    };
    match schema {
        Json::Object(schema) => schema,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::all;

    /// `UPDATE_EXPECT=1` writes them anew.
    #[test]
    fn the_schemas_in_docs_are_those_of_the_program() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema");
        for (name, schema) in all() {
            let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
            if std::env::var_os("UPDATE_EXPECT").is_some() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join(name), &text).unwrap();
            }
            let stored = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
            let stored: serde_json::Value = serde_json::from_str(&stored).unwrap_or_default();
            assert!(stored == schema, "docs/schema/{name} is not what the format says; run this test with UPDATE_EXPECT=1");
        }
    }
}
