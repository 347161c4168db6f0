//! `postwarm plugin list`: the built-ins and every file of the plugins directory, with what is wrong with it.

use crate::registry::{PluginStatus, Registry};
use std::io::Write;

/// Lists the plugins. Returns 0, or 1 where something is wrong with a file, even if its content from before is used on.
pub fn list(registry: &Registry, json: bool, out: &mut dyn Write) -> std::io::Result<i32> {
    let plugins = registry.list();
    if json {
        serde_json::to_writer_pretty(&mut *out, &plugins)?;
        writeln!(out)?;
    } else {
        plugins.iter().try_for_each(|plugin| line(plugin, out))?;
    }
    Ok(i32::from(plugins.iter().any(|plugin| plugin.problem.is_some())))
}

fn line(plugin: &PluginStatus, out: &mut dyn Write) -> std::io::Result<()> {
    let word = |value: serde_json::Result<serde_json::Value>| {
        value.ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_else(|| "-".to_owned())
    };
    let kind = word(serde_json::to_value(plugin.kind));
    let (state, source) = (word(serde_json::to_value(plugin.state)), word(serde_json::to_value(plugin.source)));
    let (id, version) = (plugin.id.as_deref().unwrap_or("-"), plugin.version.as_deref().unwrap_or("-"));
    write!(out, "{id:<16} {kind:<14} {version:<8} {source:<9} {state}")?;
    if let Some(file) = &plugin.file {
        write!(out, "  {file}")?;
    }
    if let Some(problem) = &plugin.problem {
        write!(out, ": {problem}")?;
    }
    writeln!(out)
}
