//! `postwarm serve`: starts the process and maps what goes wrong to exit codes.

use crate::app::{self, Options, StartError};
use crate::config::live::SharedEnv;
use std::io::Write;

const UNAVAILABLE: i32 = 69;
const CONFIGURATION: i32 = 78;

/// Serves until a signal. `err` gets what kept the start from working.
pub async fn run(options: Options, env: SharedEnv, err: &mut dyn Write) -> i32 {
    let metrics = match metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder() {
        Ok(metrics) => metrics,
        Err(error) => return fail(err, UNAVAILABLE, &format!("metrics cannot be recorded: {error}")),
    };
    match app::serve(options, env, metrics).await {
        Ok(()) => 0,
        Err(StartError::Configuration(problems)) => fail(err, CONFIGURATION, &problems),
        Err(error @ (StartError::Unavailable(_) | StartError::Ended(_))) => fail(err, UNAVAILABLE, &error.to_string()),
    }
}

fn fail(err: &mut dyn Write, code: i32, words: &str) -> i32 {
    // Nowhere else to say it.
    let _ = writeln!(err, "{words}");
    code
}
