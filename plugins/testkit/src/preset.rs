//! What the crates of preset clients show: how real replies read.
//!
//! Invariant: knows the kit's presets and no provider.

use postwarm_plugin_api::Phase;
use postwarm_plugin_kit::classify::classify;
use postwarm_plugin_kit::preset::Preset;
use postwarm_plugin_kit::reply::ReplyParser;

/// A reply without its last line end: whom it blames and for how long, such as `Domain after 7200 s`, and when it came.
pub type Judged = (&'static str, Phase, &'static str);

/// Fails the test that calls it where the preset judges one of the replies otherwise.
#[track_caller]
pub fn assert_judged(preset: &Preset, replies: &[Judged]) {
    let mut otherwise = Vec::new();
    for &(judgement, phase, lines) in replies {
        let mut parser = ReplyParser::default();
        parser.feed(format!("{lines}\r\n").as_bytes()).expect("a line of the table is a reply");
        let (fault, retry_after) = classify(preset.rules, &parser.reply(), phase);
        let wait = retry_after.map_or_else(String::new, |wait| format!(" after {} s", wait.as_secs()));
        let found = format!("{fault:?}{wait}");
        if found != judgement {
            otherwise.push(format!("{found}, not {judgement}: {phase:?} {lines}"));
        }
    }
    assert!(otherwise.is_empty(), "{}:\n{}", preset.id, otherwise.join("\n"));
}
