//! How plugins are made and how built-ins register.
//!
//! `inventory` registers nothing from a crate that is only a Cargo dependency: the list in `plugins/builtin` names each
//! crate, and the host compares what registered with that list at every start.

use crate::{Descriptor, FeedbackLoop, Instance, SettingsProblem, SmtpClient};
use std::sync::Arc;

/// Makes SMTP clients.
pub trait SmtpFactory: Send + Sync + 'static {
    fn descriptor(&self) -> Descriptor;

    /// Makes an instance, or says everything that is wrong with its settings. It does no I/O and starts nothing: the
    /// first `send` does, so that `postwarm check` may call it too.
    fn create(&self, instance: Instance) -> Result<Arc<dyn SmtpClient>, Vec<SettingsProblem>>;
}

/// Makes feedback loops.
pub trait FeedbackFactory: Send + Sync + 'static {
    fn descriptor(&self) -> Descriptor;

    /// As [`SmtpFactory::create`].
    fn create(&self, instance: Instance) -> Result<Arc<dyn FeedbackLoop>, Vec<SettingsProblem>>;
}

/// A built-in plugin: `inventory::submit! { Builtin::Smtp(&MyFactory) }` through [`register_builtin!`](crate::register_builtin).
#[derive(Clone, Copy)]
pub enum Builtin {
    Smtp(&'static dyn SmtpFactory),
    Feedback(&'static dyn FeedbackFactory),
}

inventory::collect!(Builtin);

/// Registers a built-in: `register_builtin!(Builtin::Smtp(&Factory));`.
#[macro_export]
macro_rules! register_builtin {
    ($builtin:expr) => {
        $crate::inventory::submit! { $builtin }
    };
}
