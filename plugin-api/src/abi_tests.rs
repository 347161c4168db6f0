//! The C header and the Rust structs are one layout.

use super::layout_lines;
use std::fmt::Write;
use std::process::Command;

fn c_name(rust: &str) -> String {
    if rust == "CallResult" {
        return "pw_result".into();
    }
    let mut name = "pw".to_owned();
    for letter in rust.chars() {
        if letter.is_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

#[test]
fn the_c_header_has_the_sizes_and_offsets_of_rust() {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut program = "#include <stdio.h>\n#include \"postwarm_plugin.h\"\nint main(void) {\n".to_owned();
    let mut expected = String::new();
    for (type_name, field, value) in layout_lines() {
        let c = c_name(type_name);
        let expression = match field {
            None => format!("sizeof({c})"),
            Some(field) => format!("offsetof({c}, {field})"),
        };
        let label = format!("{c}.{}", field.unwrap_or("(size)"));
        writeln!(program, "printf(\"{label} %zu\\n\", {expression});").expect("a string takes all");
        writeln!(expected, "{label} {value}").expect("a string takes all");
    }
    program.push_str("return 0; }\n");
    let folder = std::env::temp_dir().join(format!("postwarm-layout-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the step works");
    std::fs::write(folder.join("layout.c"), program).expect("the step works");
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/include");
    let built = Command::new(&compiler)
        .args(["-Wall", "-Wextra", "-Werror", "-I", include, "-o"])
        .args([folder.join("layout"), folder.join("layout.c")])
        .output()
        .expect("the step works");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let printed = Command::new(folder.join("layout")).output().expect("the step works");
    std::fs::remove_dir_all(&folder).expect("the step works");
    assert_eq!(String::from_utf8(printed.stdout).expect("the step works"), expected);
}
