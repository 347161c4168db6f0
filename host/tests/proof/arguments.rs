//! What the proof is asked to run.

use crate::report::Form;
use crate::scenario::{Scenario, Size};

pub const USAGE: &str = "\
make proof PROOF=\"[SCENARIO...] [OPTION...]\"; without a scenario all run

  --seed N                    the seed of every random choice; else one is drawn, and printed
  --size small|usual|full     how much of each; usual where nothing is said
  --minutes N                 how long soak takes
  --json                      a JSON object a line
  --list                      the scenarios, each with its promise
  --help                      this

Ends with 0 where every promise held, with 1 where one was broken, with 64 where it was asked for something that it does not know.
What cannot run here is skipped, and counted in the last line.";

/// The command line.
pub struct Arguments {
    pub names: Vec<String>,
    pub seed: u64,
    pub size: Size,
    pub minutes: Option<u64>,
    pub help: bool,
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
            help: false,
            list: false,
            form: Form::Table,
        };
        let mut rest = arguments;
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--seed" => parsed.seed = value()?.parse().map_err(|_| "--seed needs a whole number".to_owned())?,
                "--size" => parsed.size = value().and_then(|text| Size::parse(&text))?,
                "--minutes" => {
                    let minutes = value()?.parse().ok().filter(|minutes| *minutes > 0);
                    parsed.minutes = Some(minutes.ok_or("--minutes needs a whole number, 1 or more")?);
                }
                "--help" | "-h" => parsed.help = true,
                "--list" => parsed.list = true,
                "--json" => parsed.form = Form::Json,
                name if scenarios.iter().any(|scenario| scenario.name == name) => parsed.names.push(name.to_owned()),
                other => return Err(format!("there is no scenario or option `{other}`; --list names the scenarios, --help the options")),
            }
        }
        if parsed.minutes.is_some() && parsed.names != ["soak"] {
            return Err("--minutes is for soak alone; name it, and no other scenario".to_owned());
        }
        Ok(parsed)
    }

    /// The scenarios that were named, or those of a run without names.
    pub fn chosen<'a>(&'a self, scenarios: &'a [Scenario]) -> impl Iterator<Item = &'a Scenario> {
        scenarios.iter().filter(|scenario| self.names.is_empty() || self.names.iter().any(|name| name == scenario.name))
    }
}
