//! The functions of a source file, by its lines: enough for how long they are and what they take.

use super::is_word;

/// A function of a file in the form that rustfmt gives it.
pub struct Function<'a> {
    pub number: usize,
    pub name: &'a str,
    pub lines: usize,
    /// Their names; `self` is none.
    pub parameters: Vec<String>,
}

pub fn functions(text: &str) -> Vec<Function<'_>> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some((before, after)) = line.split_once("fn ") else { continue };
        let qualifier =
            |word: &str| word.starts_with("pub") || word.ends_with(')') || ["const", "async", "unsafe", "extern", "\"C\""].contains(&word);
        let name = after.split(|c| !is_word(c)).next().unwrap_or_default();
        if name.is_empty() || !before.split_whitespace().all(qualifier) {
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let ends = |line: &&str| line.strip_prefix(indent).is_some_and(|l| l.starts_with('}') || l.starts_with(')') && l.ends_with(';'));
        let in_one_line = line.ends_with([';', '}']);
        let lines_behind = if in_one_line { 0 } else { lines[index + 1..].iter().position(ends).map_or(0, |at| at + 1) };
        let whole = lines[index..=index + lines_behind].join("\n");
        let signature = whole.split_once(name).map_or("", |(_, rest)| rest);
        found.push(Function { number: index + 1, name, lines: lines_behind + 1, parameters: parameters(signature) });
    }
    found
}

/// The names of the parameters in a signature behind the function's name.
fn parameters(signature: &str) -> Vec<String> {
    let (mut depth, mut behind_generics, mut names, mut name) = (0, false, Vec::new(), String::new());
    let mut last = ' ';
    for c in signature.chars() {
        behind_generics |= c == '(' && depth == 0;
        match c {
            '(' | '<' | '[' | '{' => depth += 1,
            '>' if last == '-' || last == '=' => {}
            ')' | '>' | ']' | '}' => depth -= 1,
            ',' if behind_generics && depth == 1 => names.push(std::mem::take(&mut name)),
            _ if behind_generics && depth > 0 => name.push(c),
            _ => {}
        }
        last = c;
        if behind_generics && depth == 0 {
            break;
        }
    }
    names.push(name);
    let names = names.into_iter().filter_map(|text| Some(text.split(':').next()?.split_whitespace().last()?.to_owned()));
    names.filter(|name| !name.ends_with("self")).collect()
}
