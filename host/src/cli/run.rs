//! From arguments to a command and its exit code.

use crate::app::{Options, RegistryCatalogue, registry};
use crate::cli::arguments::{Arguments, Command, Folders, Key, Plugin, Service};
use crate::cli::key::{Fresh, Output};
use crate::cli::scratch::Scratch;
use crate::cli::threads::{self, Threads};
use crate::cli::{check, healthcheck, key, plugin, scheduling, serve};
use crate::clock::{Clock, SystemClock};
use crate::config::live::SharedEnv;
use crate::config::serving::Serving;
use clap::Parser;
use std::ffi::OsString;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

const OK: i32 = 0;
const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
/// Threads that run the APIs, the relay and health; blocking work has its own.
const SERVICE_WORKERS: usize = 2;
/// Threads that run the clients: half of the processors, and at most so many. They have a runtime of their own, so that no answer of
/// an API holds mail up, and the octets of a message do not go from one processor's cache to another's.
const MAIL_WORKERS_MAX: usize = 8;
/// How long what blocks may take to end.
const SHUTDOWN_MAX: Duration = Duration::from_secs(2);

/// Runs the program. Returns its exit code.
pub fn run(arguments: impl Iterator<Item = OsString>) -> i32 {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no mistakes.
            let code = if error.use_stderr() { USAGE } else { OK };
            let _ = error.print();
            return code;
        }
    };
    let env: SharedEnv = Arc::new(|name: &str| std::env::var(name).ok());
    command(arguments.command, env).unwrap_or_else(|error| {
        eprintln!("cannot write: {error}");
        UNAVAILABLE
    })
}

fn command(command: Command, env: SharedEnv) -> std::io::Result<i32> {
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr());
    match command {
        Command::Serve { service, folders } => {
            drop(out);
            start(service, folders, env)
        }
        Command::Check { config, json } => {
            let Ok(data) = Scratch::new(&std::env::temp_dir()) else { return Ok(no_randomness()) };
            let registry = registry(&config, data.path(), Serving::Both, &env);
            let format = if json { check::Format::Json } else { check::Format::Lines };
            let catalogue = RegistryCatalogue { registry, data: data.path().to_owned() };
            check::run(&config, format, &*env, &catalogue, &mut out)
        }
        Command::Plugin(Plugin::List { folders, json }) => {
            plugin::list(&registry(&folders.config, &folders.data, Serving::Both, &env), json, &mut out)
        }
        Command::Key(command) => Ok(keys(command, &mut Output { out: &mut out, err: &mut err })),
        Command::Healthcheck { port } => {
            let set = env("PORT").and_then(|port| port.parse().ok());
            match port.or(set) {
                Some(port) => Ok(healthcheck::run(port, &mut err)),
                None => Ok(usage("say which port: `postwarm healthcheck --port 8080`, or set PORT")),
            }
        }
    }
}

fn usage(words: &str) -> i32 {
    eprintln!("{words}");
    USAGE
}

fn no_randomness() -> i32 {
    eprintln!("the system gives no random numbers; see that /dev/urandom can be read");
    UNAVAILABLE
}

fn keys(command: Key, to: &mut Output<'_>) -> i32 {
    match command {
        Key::New { org, name, folders } => {
            let mut random = [0; 32];
            if aws_lc_rs::rand::fill(&mut random).is_err() {
                return no_randomness();
            }
            key::new(&folders.config, &org, &name, &Fresh { random, wall_ms: SystemClock.now().wall_ms }, to)
        }
        Key::List { org, folders } => key::list(&folders.config, &org, to),
        Key::Revoke { org, key, folders } => key::revoke(&folders.config, &org, key.as_deref(), to),
    }
}

fn start(service: Option<Service>, folders: Folders, env: SharedEnv) -> std::io::Result<i32> {
    if let Err(words) = log(&env) {
        return Ok(usage(&words));
    }
    let serving = match service {
        None => Serving::Both,
        Some(Service::Warmup) => Serving::Warmup,
        Some(Service::Health) => Serving::Health,
    };
    scheduling::as_batch();
    let services = threads::several("services", SERVICE_WORKERS)?;
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mail = Threads::start("mail", (processors / 2).clamp(1, MAIL_WORKERS_MAX))?;
    // The engine is one task. Beside the connections it would wait for them, and they for it.
    let engine = Threads::start("engine", 1)?;
    let (config, data) = (folders.config, folders.data);
    let options = Options { serving, config, data, engine: engine.handle(), mail: mail.handle() };
    let code = services.block_on(serve::run(options, env, &mut std::io::stderr()));
    // Mail first: its clients may still be at work. Nobody else can have the data folder until the process has ended.
    for ended in [mail, engine] {
        ended.end(SHUTDOWN_MAX);
    }
    services.shutdown_timeout(SHUTDOWN_MAX);
    Ok(code)
}

/// Logs to standard error: lines for people, JSON with `POSTWARM_LOG_FORMAT=json`; the filter is `RUST_LOG`. `Err` says
/// what is wrong with one of them.
fn log(env: &SharedEnv) -> Result<(), String> {
    let set = |name: &str| env(name).filter(|text| !text.trim().is_empty());
    let filter = filter(set("RUST_LOG").as_deref())?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match set("POSTWARM_LOG_FORMAT").as_deref() {
        Some("json") => builder.json().init(),
        None | Some("text") => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        Some(other) => return Err(format!("POSTWARM_LOG_FORMAT is {other:?}; set it to `json` or `text`, or unset it")),
    }
    Ok(())
}

fn filter(text: Option<&str>) -> Result<EnvFilter, String> {
    let text = text.unwrap_or("info");
    EnvFilter::try_new(text).map_err(|problem| {
        format!("RUST_LOG is {text:?}, which is no filter: {problem}; set it to a level such as `info`, or to `postwarm=debug,warn`")
    })
}
