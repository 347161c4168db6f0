//! The data folder, which one process at a time has for each service.
//!
//! Invariant: what was taken is let go by the end of the process alone: whatever of it still runs runs beside no other.

use crate::app::StartError;
use crate::config::serving::Serving;
use std::fs::File;
use std::path::Path;

/// Makes the data folder and takes it for the services that this process serves, until the process has ended.
pub fn take(data: &Path, serving: Serving) -> Result<(), StartError> {
    let unavailable = |e: std::io::Error| {
        let remedy = "make it a folder that this user may write to, or name another with --data";
        StartError::Unavailable(format!("the data folder {} cannot be used: {e}; {remedy}", data.display()))
    };
    std::fs::create_dir_all(data).map_err(unavailable)?;
    let names = [("warmup", serving.warmup()), ("health", serving.health())];
    for (name, _) in names.into_iter().filter(|(_, wanted)| *wanted) {
        let file = File::create(data.join(format!("{name}.lock"))).map_err(unavailable)?;
        file.try_lock().map_err(|_| {
            StartError::Unavailable(format!("another process serves {name} from {}; stop it or use another --data folder", data.display()))
        })?;
        // The system lets it go. Closed, it would be free while clients of this process may still be at work.
        std::mem::forget(file);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_was_taken_stays_so_for_as_long_as_the_process_lives() {
        let folder = tempfile::tempdir().unwrap();
        take(folder.path(), Serving::Warmup).unwrap();
        take(folder.path(), Serving::Health).unwrap();
        for serving in [Serving::Warmup, Serving::Health, Serving::Both] {
            let error = take(folder.path(), serving).unwrap_err().to_string();
            assert!(error.starts_with("another process serves "), "{error}");
        }
    }
}
