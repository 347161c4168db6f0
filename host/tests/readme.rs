//! The README is true: its shell blocks run against a fresh installation, its TOML blocks load.

use crate::harness::Site;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn blocks(language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|part| part.split("```").next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_command_of_the_readme_answers_as_it_says() {
    let site = Site::new();
    let demo = std::fs::read_to_string(root().join("config/organizations/demo.toml")).unwrap();
    site.organization("demo", &demo);
    let postwarm = site.serve();
    let mut answers = Vec::new();
    for block in blocks("sh") {
        for line in block.lines() {
            let line = line.replace("http://127.0.0.1:8080", &postwarm.warmup).replace("http://127.0.0.1:8081", &postwarm.health);
            let output = tokio::process::Command::new("bash").arg("-c").arg(&line).output().await.unwrap();
            assert!(output.status.success(), "{line}");
            let text = String::from_utf8(output.stdout).unwrap();
            let answer: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{line} answered {text}"));
            assert!(answer.get("code").is_none(), "{line} answered {answer}");
            if line.contains("/send") {
                postwarm.counts_when(1, |c| c["sent"] == 1 || c["failed"] == 1).await;
                postwarm.stats_when(1, |s| s["recipients"] == 1).await;
            }
            answers.push(answer);
        }
    }
    assert_eq!(answers[0]["email_id"], "alice@example.com");
    assert_eq!(answers[1]["message_id"], "<email-1@yourdomain.com>");
    assert_eq!(answers[2]["recipients"], 1);
    assert_eq!(answers[3]["email_id"], 1);
}

#[test]
fn every_toml_block_of_the_readme_loads() {
    let site = Site::new();
    let mut blocks = blocks("toml").into_iter();
    site.write("organizations/acme.toml", &blocks.next().unwrap());
    let providers = site.config().join("providers.toml");
    let text = std::fs::read_to_string(&providers).unwrap() + &blocks.next().unwrap();
    std::fs::write(&providers, text).unwrap();
    assert_eq!(blocks.next(), None, "a new block needs its place here");
    let output = site.command(&["check"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
