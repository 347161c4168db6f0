//! What `make bench BENCH="..."` asks for.

/// Recipients of a broadcast, where nothing else is said.
const ROWS: usize = 100_000;
/// As many in CI: enough to be past the start.
const SMALL_ROWS: usize = 20_000;
const ROUNDS: usize = 5;
const SMALL_ROUNDS: usize = 3;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Some benches, for CI; what misses its floor is measured again.
    Small,
    /// All benches; the long ones in every second round.
    Usual,
    /// All benches in all rounds, at the sizes that the floors speak of.
    Full,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Arguments {
    /// The benches that were named; all of the extent where none was.
    pub names: Vec<String>,
    pub extent: Extent,
    pub rounds: usize,
    pub rows: usize,
}

/// Reads the command line; `known` are the names of the benches.
pub fn parse(words: &[String], known: &[&str]) -> Result<Arguments, String> {
    let (mut names, mut extent, mut rounds, mut rows) = (Vec::new(), Extent::Usual, None, None);
    // `cargo bench` adds --bench.
    let mut rest = words.iter().filter(|word| *word != "--bench");
    while let Some(word) = rest.next() {
        let mut number = || {
            let number = rest.next().and_then(|text| text.replace(['_', ','], "").parse().ok());
            number.filter(|number| *number > 0).ok_or_else(|| format!("{word} needs a number")).map(Some)
        };
        match word.as_str() {
            "--rounds" => rounds = number()?,
            "--rows" => rows = number()?,
            "--small" => extent = Extent::Small,
            "--full" => extent = Extent::Full,
            name if known.contains(&name) => names.push(name.to_owned()),
            other => return Err(format!("there is no bench or option `{other}`; --list names the benches, --help the options")),
        }
    }
    let usual = match extent {
        Extent::Small => (SMALL_ROUNDS, SMALL_ROWS),
        Extent::Usual | Extent::Full => (ROUNDS, ROWS),
    };
    Ok(Arguments { names, extent, rounds: rounds.unwrap_or(usual.0), rows: rows.unwrap_or(usual.1) })
}
