//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Sends an organization's mail to all its users through the SMTP providers it prefers, and measures honestly what
/// became of every message.
///
/// Exit codes: 0 success, 1 a finding, 64 usage, 69 something is unavailable, 78 configuration.
#[derive(Debug, Parser)]
#[command(name = "postwarm", version, disable_help_subcommand = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serves the warmup service, the health service, or both in one process.
    Serve {
        /// The one service to serve; both when absent.
        service: Option<Service>,
        #[command(flatten)]
        folders: Folders,
    },
    /// Checks the configuration: all problems at once, each with file, line and column.
    ///
    /// Loads the external plugins that an organization names, to ask them about their settings, and so runs their code.
    /// Writes nothing but private copies of plugins to the folder of temporary files (TMPDIR), and removes them.
    Check {
        /// The configuration folder.
        #[arg(long, default_value = "config", value_name = "DIR")]
        config: PathBuf,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tells about plugins.
    #[command(subcommand)]
    Plugin(Plugin),
    /// Makes, lists and revokes API keys.
    #[command(subcommand)]
    Key(Key),
    /// Asks a running service whether it is alive; for container health checks.
    Healthcheck {
        /// The service's port; PORT where that is set.
        #[arg(long, value_name = "PORT")]
        port: Option<u16>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Service {
    Warmup,
    Health,
}

#[derive(Debug, Args)]
pub struct Folders {
    /// The configuration folder.
    #[arg(long, default_value = "config", value_name = "DIR")]
    pub config: PathBuf,
    /// The data folder; made where it is absent.
    #[arg(long, default_value = "data", value_name = "DIR")]
    pub data: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum Plugin {
    /// Lists the built-in plugins and the files of the plugins directory.
    List {
        #[command(flatten)]
        folders: Folders,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What `key` takes.
#[derive(Debug, Args)]
pub struct KeyFolders {
    /// The configuration folder, which the keys lie in.
    #[arg(long, default_value = "config", value_name = "DIR")]
    pub config: PathBuf,
    /// Changes nothing, since no key lies in the data folder; taken so that one pair of folders fits every command.
    #[arg(long, default_value = "data", value_name = "DIR")]
    pub data: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum Key {
    /// Makes a key and prints it once, alone on its line.
    ///
    /// Its hash goes into organizations/ORG.keys of the configuration folder. That file gets the mode and the group of
    /// ORG.toml beside it, and from root its owner too, so that the service can read the one if it can read the other.
    New {
        /// The organization.
        org: String,
        /// What to call the key in lists.
        #[arg(long, default_value = "")]
        name: String,
        #[command(flatten)]
        folders: KeyFolders,
    },
    /// Lists the keys by what they begin with.
    List {
        /// The organization.
        org: String,
        #[command(flatten)]
        folders: KeyFolders,
    },
    /// Revokes a key.
    Revoke {
        /// The organization.
        org: String,
        /// What the key begins with, as `key list` shows it; may be left out where there is only one.
        key: Option<String>,
        #[command(flatten)]
        folders: KeyFolders,
    },
}
