//! What the proof is asked to run.

use crate::report::Form;
use crate::scenario::{Scenario, Size};

/// The command line.
pub struct Arguments {
    pub names: Vec<String>,
    pub seed: u64,
    pub size: Size,
    pub minutes: Option<u64>,
    pub list: bool,
    pub form: Form,
}

impl Arguments {
    /// `Err` says in words what is wrong.
    pub fn parse(arguments: impl Iterator<Item = String>, scenarios: &[Scenario]) -> Result<Arguments, String> {
        let mut parsed = Arguments {
            names: Vec::new(),
            seed: fastrand::u64(..1_000_000_000),
            size: Size::Usual,
            minutes: None,
            list: false,
            form: Form::Table,
        };
        let mut rest = arguments;
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--seed" => parsed.seed = value()?.parse().map_err(|_| "--seed needs a whole number".to_owned())?,
                "--size" => parsed.size = value().and_then(|text| Size::parse(&text))?,
                "--minutes" => parsed.minutes = Some(value()?.parse().map_err(|_| "--minutes needs a whole number".to_owned())?),
                "--list" => parsed.list = true,
                "--json" => parsed.form = Form::Json,
                name if scenarios.iter().any(|scenario| scenario.name == name) => parsed.names.push(name.to_owned()),
                other => return Err(format!("there is no scenario `{other}`; --list names them")),
            }
        }
        Ok(parsed)
    }

    /// The scenarios that were named, or those of a run without names.
    pub fn chosen<'a>(&'a self, scenarios: &'a [Scenario]) -> impl Iterator<Item = &'a Scenario> {
        scenarios.iter().filter(|scenario| self.names.is_empty() || self.names.iter().any(|name| name == scenario.name))
    }
}
