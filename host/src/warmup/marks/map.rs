//! A file as shared memory: what is written to it is the file's at once, whatever ends the process.
//!
//! Invariant: knows nothing of what stands in it. It is 64-bit words, each read and written whole.
#![expect(unsafe_code, reason = "std maps no files, and cannot ask what of a file is in memory")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// Octets of a word.
pub const WORD_OCTETS: usize = 8;

/// File systems on which a page that is written to a file of allocated blocks needs no more room later, so that a full disk cannot
/// end the process, and which answer truly what is in memory. Those that copy on write, and those that other programs serve, do not.
const FILE_SYSTEMS: [rustix::fs::FsWord; 3] = [libc::EXT4_SUPER_MAGIC, libc::XFS_SUPER_MAGIC, libc::TMPFS_MAGIC];

/// A whole file, mapped.
pub struct Map {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: it owns its mapping, and all that it gives of it are atomics.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps a file that is open for reading and writing; of a length that is no whole number of words, the words that are whole.
    ///
    /// # Errors
    /// An empty file, and what the system says.
    pub fn of(file: &File) -> io::Result<Map> {
        let words = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX) / WORD_OCTETS;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping of an open file at an address of the system's choice touches no memory of ours. An empty one is
        // an error of the system.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), words * WORD_OCTETS, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("it was mapped to nowhere"))?;
        Ok(Map { start, words })
    }

    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping begins at a page, is that long, and lives as long as `self`. Nobody makes the file shorter: it is
        // ours alone, and the data folder is locked.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    /// Keeps all of it in memory as long as it is mapped.
    ///
    /// # Errors
    /// The system allows no more to be locked, or has no room for it.
    pub fn keep_in_memory(&self) -> io::Result<()> {
        // SAFETY: the mapping is that long; locking changes nothing of it.
        match unsafe { libc::mlock(self.start.as_ptr().cast(), self.words * WORD_OCTETS) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Tells whether all of it is in memory. True once it was looked at, so ask first.
    pub fn is_in_memory(&self) -> io::Result<bool> {
        // SAFETY: a question about a constant of the system.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(0).max(1);
        let octets = self.words * WORD_OCTETS;
        let mut pages = vec![0; octets.div_ceil(page)];
        // SAFETY: the mapping is that long, and `pages` has an octet for each of its pages.
        match unsafe { libc::mincore(self.start.as_ptr().cast(), octets, pages.as_mut_ptr()) } {
            0 => Ok(pages.iter().all(|page| page & 1 == 1)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: it was mapped with that length, and what borrows from it is gone.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.words * WORD_OCTETS) };
    }
}

/// Tells whether the file lies where a mapping of it can be relied on.
pub fn is_on_reliable_file_system(file: &File) -> io::Result<bool> {
    Ok(FILE_SYSTEMS.contains(&rustix::fs::fstatfs(file)?.f_type))
}
