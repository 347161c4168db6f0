//! The built-ins as the registry shows them: like any other plugin.

use super::{PluginStatus, Source, State};
use postwarm_plugin_api::{Builtin, Descriptor, FeedbackFactory, FeedbackLoop, Instance, SettingsProblem, SmtpClient, SmtpFactory};
use std::sync::Arc;

pub(super) fn describe_builtin(builtin: &Builtin) -> Descriptor {
    match builtin {
        Builtin::Smtp(factory) => factory.descriptor(),
        Builtin::Feedback(factory) => factory.descriptor(),
    }
}

pub(super) fn builtin_status(builtin: &Builtin) -> PluginStatus {
    let descriptor = describe_builtin(builtin);
    PluginStatus {
        id: Some(descriptor.id.into_owned()),
        kind: Some(descriptor.kind),
        version: Some(descriptor.version.into_owned()),
        source: Source::BuiltIn,
        file: None,
        sha256: None,
        state: State::Available,
        problem: None,
    }
}

pub(super) struct BuiltinSmtp(pub &'static dyn SmtpFactory);

impl SmtpFactory for BuiltinSmtp {
    fn descriptor(&self) -> Descriptor {
        self.0.descriptor()
    }

    fn create(&self, instance: Instance) -> Result<Arc<dyn SmtpClient>, Vec<SettingsProblem>> {
        self.0.create(instance)
    }
}

pub(super) struct BuiltinFeedback(pub &'static dyn FeedbackFactory);

impl FeedbackFactory for BuiltinFeedback {
    fn descriptor(&self) -> Descriptor {
        self.0.descriptor()
    }

    fn create(&self, instance: Instance) -> Result<Arc<dyn FeedbackLoop>, Vec<SettingsProblem>> {
        self.0.create(instance)
    }
}
