//! Translates between the Rust types of the contract and the structs of [`abi`], for both sides.
//!
//! Invariant: reading copies; nothing here keeps a pointer. A field behind the other side's `struct_size` reads as zero.
//! Invariant: what contradicts itself becomes `Unknown`, never `Accepted`.

use crate::abi::{self, Slice};
use crate::{
    Aggregate, Capabilities, Cause, EnhancedCode, Fact, FactKind, Fault, Instance, Outcome, Phase, Reply, Report, Secret, Watched,
};
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::time::Duration;

/// The octets of a reply or of a detail that are kept.
pub const TEXT_OCTETS_MAX: usize = 512;

const FAULTS: [Fault; 5] = [Fault::Recipient, Fault::Account, Fault::Domain, Fault::Content, Fault::Network];
const CAUSES: [Cause; 8] = [
    Cause::Connect,
    Cause::Tls,
    Cause::Authenticate,
    Cause::Session,
    Cause::Disconnected,
    Cause::Stopping,
    Cause::Internal,
    Cause::Unsupported,
];
const PHASES: [Phase; 11] = [
    Phase::Connect,
    Phase::Greeting,
    Phase::Ehlo,
    Phase::StartTls,
    Phase::Authenticate,
    Phase::Mail,
    Phase::Rcpt,
    Phase::Data,
    Phase::Content,
    Phase::EndOfData,
    Phase::Quit,
];
const FACTS: [FactKind; 6] =
    [FactKind::Delivered, FactKind::Spam, FactKind::Opened, FactKind::Read, FactKind::Bounced, FactKind::Unsubscribed];

fn number<T: PartialEq>(all: &[T], one: T) -> u32 {
    all.iter().position(|candidate| *candidate == one).map_or(0, |index| index as u32 + 1)
}

fn named<T: Copy>(all: &[T], number: u32) -> Option<T> {
    all.get((number as usize).checked_sub(1)?).copied()
}

/// A struct of the ABI that starts with its size and may be all zeros.
///
/// # Safety
/// `repr(C)`, the first field is `struct_size: u32`, and zeros are a valid value of every field.
pub unsafe trait Sized32 {}

macro_rules! sized32 {
    ($($name:ident)*) => { $(
        // SAFETY: `repr(C)` with `struct_size` first; integers, floats, raw pointers and optional functions may be zero.
        unsafe impl Sized32 for abi::$name {}
    )* };
}
sized32!(Descriptor Secret Instance Host Log CallResult SendRequest Outcome Smtp Report Watched PollRequest Feedback Entry);

/// Copies a struct of the other side; what it does not have is zero. Null reads as zeros.
///
/// # Safety
/// `pointer` is null or points to as many readable bytes as its `struct_size` says.
pub unsafe fn read<T: Sized32>(pointer: *const T) -> T {
    let mut value = MaybeUninit::<T>::zeroed();
    if !pointer.is_null() {
        // SAFETY: the first field is the size; the copy stays within it and within `T`. Zeros are valid in the rest.
        unsafe {
            let struct_size = pointer.cast::<u32>().read() as usize;
            let len = struct_size.min(size_of::<T>());
            std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), value.as_mut_ptr().cast::<u8>(), len);
        }
    }
    // SAFETY: all bytes are initialized, and `Sized32` says that zeros are valid.
    unsafe { value.assume_init() }
}

/// Shortens a text to [`TEXT_OCTETS_MAX`] octets, on a character's edge, and takes line ends out.
pub fn one_line(text: &str) -> String {
    let mut line = text.replace(['\r', '\n'], " ");
    line.truncate(line.floor_char_boundary(TEXT_OCTETS_MAX));
    line
}

/// Lends an outcome as the C struct, for the length of `use_it`.
pub fn lend_outcome<R>(outcome: &Outcome, use_it: impl FnOnce(&abi::Outcome) -> R) -> R {
    let mut c = abi::Outcome {
        struct_size: abi::size_of::<abi::Outcome>(),
        status: abi::UNKNOWN,
        code: 0,
        enhanced_class: 0,
        enhanced_subject: 0,
        enhanced_detail: 0,
        fault: 0,
        cause: 0,
        phase: 0,
        reserved: 0,
        retry_after_ms: 0,
        text: Slice::EMPTY,
    };
    let reply = match outcome {
        Outcome::Accepted(reply) => {
            c.status = abi::ACCEPTED;
            Some(reply)
        }
        Outcome::Deferred { reply, fault, retry_after } => {
            c.status = abi::DEFERRED;
            c.fault = number(&FAULTS, *fault);
            // Zero means that the server said nothing, so "at once" is one millisecond.
            c.retry_after_ms = retry_after.map_or(0, |after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX).max(1));
            Some(reply)
        }
        Outcome::Rejected { reply, fault } => {
            c.status = abi::REJECTED;
            c.fault = number(&FAULTS, *fault);
            Some(reply)
        }
        Outcome::NotAttempted { cause, detail } => {
            c.status = abi::NOT_ATTEMPTED;
            c.cause = number(&CAUSES, *cause);
            c.text = Slice::new(detail.as_bytes());
            None
        }
        Outcome::Unknown { phase, detail } => {
            c.phase = number(&PHASES, *phase);
            c.text = Slice::new(detail.as_bytes());
            None
        }
    };
    if let Some(reply) = reply {
        c.code = u32::from(reply.code);
        c.text = Slice::new(reply.text.as_bytes());
        if let Some(EnhancedCode(class, subject, detail)) = reply.enhanced {
            (c.enhanced_class, c.enhanced_subject, c.enhanced_detail) = (class.into(), subject.into(), detail.into());
        }
    }
    use_it(&c)
}

/// Reads an outcome. A status that is unknown or that its code contradicts is [`Outcome::Unknown`]; an unknown fault is
/// [`Fault::Network`], an unknown cause [`Cause::Internal`], an unknown phase [`Phase::EndOfData`].
///
/// # Safety
/// `outcome` is null or points to a struct of its size, whose text is readable until this returns.
pub unsafe fn read_outcome(outcome: *const abi::Outcome) -> Outcome {
    // SAFETY: the caller vouches for the struct and for its text.
    let (c, text) = unsafe {
        let c = read(outcome);
        let text = one_line(&c.text.text());
        (c, text)
    };
    if c.status == abi::NOT_ATTEMPTED {
        return Outcome::NotAttempted { cause: named(&CAUSES, c.cause).unwrap_or(Cause::Internal), detail: text };
    }
    if c.status == abi::UNKNOWN {
        return Outcome::Unknown { phase: named(&PHASES, c.phase).unwrap_or(Phase::EndOfData), detail: text };
    }
    let class = match c.status {
        abi::ACCEPTED => 2,
        abi::DEFERRED => 4,
        abi::REJECTED => 5,
        status => {
            let detail = one_line(&format!("the plugin gave the status {status}, which does not exist: {text}"));
            return Outcome::Unknown { phase: Phase::EndOfData, detail };
        }
    };
    if c.code / 100 != class {
        let detail = one_line(&format!("the plugin gave the status {} with the reply {}: {text}", c.status, c.code));
        return Outcome::Unknown { phase: Phase::EndOfData, detail };
    }
    let enhanced = match (u8::try_from(c.enhanced_class), u16::try_from(c.enhanced_subject), u16::try_from(c.enhanced_detail)) {
        (Ok(class), Ok(subject), Ok(detail)) if class != 0 => Some(EnhancedCode(class, subject, detail)),
        _ => None,
    };
    let reply = Reply { code: c.code as u16, enhanced, text };
    let fault = named(&FAULTS, c.fault).unwrap_or(Fault::Network);
    match c.status {
        abi::ACCEPTED => Outcome::Accepted(reply),
        abi::DEFERRED => {
            let retry_after = (c.retry_after_ms != 0).then(|| Duration::from_millis(c.retry_after_ms));
            Outcome::Deferred { reply, fault, retry_after }
        }
        _ => Outcome::Rejected { reply, fault },
    }
}

/// Lends an instance's configuration as the C struct, for the length of `use_it`.
pub fn lend_instance<R>(instance: &Instance, use_it: impl FnOnce(&abi::Instance) -> R) -> R {
    let settings = serde_json::to_string(&instance.settings).expect("a JSON map with string keys always serializes");
    let data_dir = instance.data_dir.to_string_lossy();
    let secrets: Vec<abi::Secret> = instance
        .secrets
        .iter()
        .map(|(key, secret)| abi::Secret {
            struct_size: abi::size_of::<abi::Secret>(),
            reserved: 0,
            key: Slice::new(key.as_bytes()),
            value: Slice::new(secret.expose().as_bytes()),
        })
        .collect();
    let pointers: Vec<*const abi::Secret> = secrets.iter().map(std::ptr::from_ref).collect();
    use_it(&abi::Instance {
        struct_size: abi::size_of::<abi::Instance>(),
        connections_max: instance.connections_max.max(1),
        organization: Slice::new(instance.organization.as_bytes()),
        name: Slice::new(instance.name.as_bytes()),
        settings: Slice::new(settings.as_bytes()),
        data_dir: Slice::new(data_dir.as_bytes()),
        secrets: pointers.as_ptr(),
        secrets_len: pointers.len() as u32,
        reserved: 0,
    })
}

/// Reads an instance's configuration; `Err` says what is no configuration at all.
///
/// # Safety
/// `instance` is null or points to a struct of its size; everything that it points to is readable until this returns.
pub unsafe fn read_instance(instance: *const abi::Instance) -> Result<Instance, String> {
    // SAFETY: the caller vouches for the struct, its slices and its array of pointers.
    unsafe {
        let c = read(instance);
        let mut secrets = BTreeMap::new();
        if !c.secrets.is_null() {
            for &pointer in std::slice::from_raw_parts(c.secrets, c.secrets_len as usize) {
                let secret = read(pointer);
                secrets.insert(secret.key.text(), Secret::new(secret.value.text()));
            }
        }
        let settings = serde_json::from_slice(c.settings.bytes()).map_err(|error| format!("the settings are no JSON object: {error}"))?;
        Ok(Instance {
            organization: c.organization.text(),
            name: c.name.text(),
            settings,
            secrets,
            connections_max: c.connections_max.max(1),
            data_dir: PathBuf::from(c.data_dir.text()),
        })
    }
}

/// The bits of `capabilities`.
pub fn capability_bits(can: Capabilities) -> u32 {
    [can.delivered, can.spam, can.opened, can.read, can.bounced, can.unsubscribed, can.aggregates]
        .into_iter()
        .enumerate()
        .fold(0, |bits, (index, yes)| bits | (u32::from(yes) << index))
}

/// Capabilities from their bits; unknown bits are ignored.
pub fn read_capabilities(bits: u32) -> Capabilities {
    let has = |index: u32| bits & (1 << index) != 0;
    Capabilities {
        delivered: has(0),
        spam: has(1),
        opened: has(2),
        read: has(3),
        bounced: has(4),
        unsubscribed: has(5),
        aggregates: has(6),
    }
}

/// Lends a report as the C struct, for the length of `use_it`.
pub fn lend_report<R>(report: &Report, use_it: impl FnOnce(&abi::Report) -> R) -> R {
    let mut c = abi::Report {
        struct_size: abi::size_of::<abi::Report>(),
        report: abi::REPORT_MESSAGE,
        fact: 0,
        reserved: 0,
        at_ms: 0,
        message_id: Slice::EMPTY,
        detail: Slice::EMPTY,
        domain: Slice::EMPTY,
        date: Slice::EMPTY,
        metric: Slice::EMPTY,
        value: 0.0,
    };
    match report {
        Report::Message(fact) => {
            c.fact = number(&FACTS, fact.kind);
            c.at_ms = fact.at_ms.unwrap_or(0);
            c.message_id = Slice::new(fact.message_id.as_bytes());
            c.detail = fact.detail.as_deref().map_or(Slice::EMPTY, |detail| Slice::new(detail.as_bytes()));
        }
        Report::Aggregate(aggregate) => {
            c.report = abi::REPORT_AGGREGATE;
            c.domain = Slice::new(aggregate.domain.as_bytes());
            c.date = Slice::new(aggregate.date.as_bytes());
            c.metric = Slice::new(aggregate.metric.as_bytes());
            c.value = aggregate.value;
        }
        Report::NoData { domain, date } => {
            c.report = abi::REPORT_NO_DATA;
            c.domain = Slice::new(domain.as_bytes());
            c.date = Slice::new(date.as_bytes());
        }
    }
    use_it(&c)
}

/// Reads a report; `None` where its kind or its fact is unknown, which the host skips.
///
/// # Safety
/// `report` is null or points to a struct of its size, whose texts are readable until this returns.
pub unsafe fn read_report(report: *const abi::Report) -> Option<Report> {
    // SAFETY: the caller vouches for the struct and for its texts.
    unsafe {
        let c = read(report);
        match c.report {
            abi::REPORT_MESSAGE => {
                let detail = one_line(&c.detail.text());
                Some(Report::Message(Fact {
                    message_id: c.message_id.text(),
                    kind: named(&FACTS, c.fact)?,
                    at_ms: (c.at_ms != 0).then_some(c.at_ms),
                    detail: (!detail.is_empty()).then_some(detail),
                }))
            }
            abi::REPORT_AGGREGATE => {
                Some(Report::Aggregate(Aggregate { domain: c.domain.text(), date: c.date.text(), metric: c.metric.text(), value: c.value }))
            }
            abi::REPORT_NO_DATA => Some(Report::NoData { domain: c.domain.text(), date: c.date.text() }),
            _ => None,
        }
    }
}

/// Lends a watched message as the C struct, for the length of `use_it`.
pub fn lend_watched<R>(watched: &Watched, use_it: impl FnOnce(&abi::Watched) -> R) -> R {
    use_it(&abi::Watched {
        struct_size: abi::size_of::<abi::Watched>(),
        reserved: 0,
        position: watched.position,
        sent_at_ms: watched.sent_at_ms,
        message_id: Slice::new(watched.message_id.as_bytes()),
        domain: Slice::new(watched.domain.as_bytes()),
    })
}

/// Reads a watched message.
///
/// # Safety
/// `watched` is null or points to a struct of its size, whose texts are readable until this returns.
pub unsafe fn read_watched(watched: *const abi::Watched) -> Watched {
    // SAFETY: the caller vouches for the struct and for its texts.
    unsafe {
        let c = read(watched);
        Watched { position: c.position, message_id: c.message_id.text(), domain: c.domain.text(), sent_at_ms: c.sent_at_ms }
    }
}

#[cfg(test)]
#[path = "abi_convert_tests.rs"]
mod tests;
