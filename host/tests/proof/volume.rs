//! A small ext4 of its own that can lose its power: what was not flushed is gone, as on a real machine.
//!
//! A copy of live files would be torn in ways that no power loss makes, and would prove nothing.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// EXT4_IOC_SHUTDOWN: from now on nothing is written any more.
const SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// The journal is not flushed either.
const NO_LOG_FLUSH: u32 = 2;

/// A file with an ext4, mounted on a folder.
pub struct Volume {
    image: PathBuf,
    at: PathBuf,
    is_mounted: bool,
}

impl Volume {
    /// Makes one of so many MiB in `image` and mounts it on `at`. `Err` says why that cannot be done here.
    pub fn mount(image: PathBuf, at: PathBuf, mib: u64) -> Result<Volume, String> {
        std::fs::create_dir_all(&at).map_err(|error| error.to_string())?;
        File::create(&image).and_then(|file| file.set_len(mib << 20)).map_err(|error| error.to_string())?;
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &image])?;
        let mut volume = Volume { image, at, is_mounted: false };
        volume.attach()?;
        Ok(volume)
    }

    fn attach(&mut self) -> Result<(), String> {
        run("mount", &["-o".as_ref(), "loop".as_ref(), &self.image, &self.at])?;
        self.is_mounted = true;
        Ok(())
    }

    /// Takes the power away: writes fail from now on, and what was not flushed is gone.
    #[expect(unsafe_code, reason = "no crate has this ioctl")]
    pub fn lose_power(&self) {
        let folder = File::open(&self.at).expect("the mounted folder can be opened");
        // SAFETY: the descriptor is open for the length of the call, which reads one u32.
        let status = unsafe { libc::ioctl(folder.as_raw_fd(), SHUTDOWN as _, &NO_LOG_FLUSH) };
        assert_eq!(status, 0, "EXT4_IOC_SHUTDOWN: {}", std::io::Error::last_os_error());
    }

    /// Gives it power again. Nobody may have a file of it open.
    pub fn return_power(&mut self) {
        self.detach().unwrap();
        self.attach().unwrap();
    }

    fn detach(&mut self) -> Result<(), String> {
        run("umount", &[&self.at])?;
        self.is_mounted = false;
        Ok(())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.is_mounted
            && let Err(words) = self.detach()
        {
            eprintln!("{words}");
        }
    }
}

/// Runs a program; `Err` says in words what went wrong.
pub fn run(program: &str, arguments: &[&Path]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
