//! Limits: the short forms and `windows` to windows.

use crate::config::document::{Document, Node};
use crate::config::format::SHORT_WINDOWS;
use crate::config::problem::Report;
use crate::config::settings::Window;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

/// Reads a `limits` table, the shortest window first.
pub fn windows(document: &Document, limits: Option<&Node>, report: &mut Report) -> Vec<Window> {
    let Some(limits) = limits else { return Vec::new() };
    let mut found: BTreeMap<Duration, (u64, Range<usize>)> = BTreeMap::new();
    let short = SHORT_WINDOWS.iter().filter_map(|(key, per)| Some((Window { messages: limits.count(key)?, per: *per }, limits.at(key))));
    let long = limits.list("windows").iter().filter_map(|node| Some((window(node)?, &node.span)));
    for (window, at) in short.chain(long) {
        if found.insert(window.per, (window.messages, at.clone())).is_some() {
            let message = format!("a second limit for the same window of {}", humantime::format_duration(window.per));
            document.error(report, at, message, "keep one of them");
        }
    }
    warn_of_moot(document, &found, report);
    found.into_iter().map(|(per, (messages, _))| Window { messages, per }).collect()
}

/// Reads `{ messages = 1, per = "10s" }`.
pub fn window(node: &Node) -> Option<Window> {
    Some(Window { messages: node.count("messages")?, per: node.duration("per")? })
}

/// Replaces windows of the same length; the shortest window stays first.
pub fn merge(base: &[Window], over: &[Window]) -> Vec<Window> {
    let all = base.iter().chain(over).map(|window| (window.per, window.messages));
    all.collect::<BTreeMap<_, _>>().into_iter().map(|(per, messages)| Window { messages, per }).collect()
}

/// A window that allows no more than a longer one does can never be the one that counts.
fn warn_of_moot(document: &Document, found: &BTreeMap<Duration, (u64, Range<usize>)>, report: &mut Report) {
    for (per, (messages, at)) in found {
        let longer = found.iter().rev().find(|(other, (fewer, _))| *other > per && fewer <= messages);
        if let Some((other, (fewer, _))) = longer {
            let (per, other) = (humantime::format_duration(*per), humantime::format_duration(*other));
            let message = format!("{messages} messages in {per} never matter, because only {fewer} are allowed in {other}");
            document.warning(report, at, message, "remove one of the two limits");
        }
    }
}
