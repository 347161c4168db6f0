//! A wall clock of one process that jumps, as libfaketime makes it; what has passed since the boot goes on as it is.

use crate::harness::Site;
use std::path::PathBuf;

/// Where Debian's package `faketime` has it.
const LIBRARY: &str = "/usr/lib/*/faketime/libfaketimeMT.so.1";

/// The wall clock of one site's processes.
pub struct WallClock {
    file: PathBuf,
}

impl WallClock {
    /// Gives the site a wall clock of its own; where the library is not there, the reason.
    pub fn give(site: Site) -> (Site, Result<WallClock, String>) {
        let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        let library = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
        let Some(library) = library else {
            return (site, Err(format!("{LIBRARY} is not there; apt-get install faketime")));
        };
        let clock = WallClock { file: site.folder.path().join("wall-clock") };
        clock.jump(0);
        let file = clock.file.to_str().unwrap().to_owned();
        let site = site
            .env("LD_PRELOAD", library.to_str().unwrap())
            .env("FAKETIME_TIMESTAMP_FILE", &file)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1");
        (site, Ok(clock))
    }

    /// Sets the clock so many seconds off the right time: the next reading shows it.
    pub fn jump(&self, seconds: i64) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n")).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }
}
