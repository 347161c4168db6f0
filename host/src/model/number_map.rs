//! Maps whose keys are numbers of ours.

use std::collections::HashMap;

/// A map by numbers that this program gave out: nobody chooses them to make it slow, so that a fast hash serves.
pub type NumberMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
