//! `openssl speed`: how many signatures the machine can make at most.

use crate::machine;
use crate::process::output;
use crate::readings;
use std::process::Command;

const SECONDS: &str = "2";

/// RSA-2048 signatures a second on all cores.
pub fn rsa_signatures_per_second() -> f64 {
    let cores = machine::cores().to_string();
    let said = output(Command::new("openssl").args(["speed", "-multi", &cores, "-seconds", SECONDS, "rsa2048"]));
    let said = said.unwrap_or_else(|error| panic!("openssl failed: {error}"));
    readings::rsa_signatures_per_second(&said).unwrap_or_else(|| panic!("openssl says nothing of rsa2048: {said}"))
}
