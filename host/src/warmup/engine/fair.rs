//! Who may have how much in hand: the pool of rows in `sending`, shared among organizations and then among their lanes.
//!
//! What a lane has in hand already counts as its part, so that whoever waits for a silent server gets no more until others
//! have as much. The last part of the pool is a reserve: rows for organizations that have next to nothing in hand. Each whose
//! client has not proven brisk gets a part of what is left, so that those who fall silent one after another leave less and less to
//! the next, and a row at a time in the end. The pool is bounded and a silent server keeps its rows, so that enough of them do keep newcomers out: of 512 rows
//! the first fifteen organizations with 30 messages in flight have 448, and the reserve lasts for fifteen more. (After a minute
//! their clients give back what no connection has begun with.)
//!
//! Invariant: pure; no more is given than is free and no lane gets more than it asks for. Where rows are free and one
//! organization with nothing in hand asks, it gets some.

use crate::model::name::OrgId;
use std::collections::BTreeMap;

/// One part in this of the pool is the reserve.
const RESERVE_PART: usize = 8;
/// One part in this of the reserve is the most that one organization gets of it.
const SMALL_PART: usize = 4;
/// So many such parts as each newcomer gets of what is left of the reserve stay for those who come later.
const LATER_PARTS: usize = 3;

/// What a lane has and asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    pub org: OrgId,
    /// Rows of the lane in hand.
    pub has: usize,
    /// How many more it could use.
    pub wants: usize,
    /// Its client answers quickly.
    pub is_brisk: bool,
}

/// The pool as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool<'a> {
    pub rows_max: usize,
    /// Rows in hand by organization, those of lanes that ask for nothing included.
    pub in_hand: &'a BTreeMap<OrgId, usize>,
}

/// How many rows each lane may claim now, in the order of `asks`; of equals the first get more.
pub fn parts(pool: Pool<'_>, asks: &[Ask]) -> Vec<usize> {
    let free = pool.rows_max.saturating_sub(pool.in_hand.values().sum());
    let reserve = pool.rows_max / RESERVE_PART;
    let small = (reserve / SMALL_PART).max(1);
    let mut given = vec![0; asks.len()];
    let open = among_organizations(pool, asks, &mut given, free.saturating_sub(reserve), |_| Most { brisk: usize::MAX, other: usize::MAX });
    let left = free.min(reserve) + open;
    let left = among_organizations(pool, asks, &mut given, left, |levels| newcomers_most(levels, left, small));
    // A lane with nothing is let in beside its organization's silent one, as long as newcomers still find half the reserve.
    let spare = left.saturating_sub(reserve / 2);
    let waiting = asks.iter().zip(&mut given).filter(|(ask, given)| ask.has + **given == 0 && ask.wants > 0);
    waiting.take(spare).for_each(|(_, given)| *given = 1);
    given
}

/// Up to how many rows an organization gets.
struct Most {
    /// One of whose clients answers quickly: it gives them back soon.
    brisk: usize,
    other: usize,
}

/// An organization as it stands among others.
struct Level {
    has: usize,
    wants: usize,
    is_brisk: bool,
}

/// Up to how many rows an organization gets of the reserve, of which `left` are left: what stays is worth some parts of newcomers.
fn newcomers_most(levels: &[Level], left: usize, small: usize) -> Most {
    let newcomers = levels.iter().filter(|level| level.has < small && level.wants > 0 && !level.is_brisk).count();
    Most { brisk: small, other: (left / (newcomers + LATER_PARTS)).clamp(1, small) }
}

/// Gives `amount` to organizations that have less than `most` of what all have and want, the least first; answers what nobody took.
fn among_organizations(pool: Pool<'_>, asks: &[Ask], given: &mut [usize], amount: usize, most: impl Fn(&[Level]) -> Most) -> usize {
    let mut orgs: Vec<OrgId> = Vec::new();
    let mut lanes: BTreeMap<OrgId, Vec<usize>> = BTreeMap::new();
    for (place, ask) in asks.iter().enumerate() {
        let of_org = lanes.entry(ask.org).or_default();
        if of_org.is_empty() {
            orgs.push(ask.org);
        }
        of_org.push(place);
    }
    let levels: Vec<Level> = orgs
        .iter()
        .map(|org| {
            let own = &lanes[org];
            Level {
                has: pool.in_hand.get(org).copied().unwrap_or(0) + own.iter().map(|place| given[*place]).sum::<usize>(),
                wants: own.iter().map(|place| asks[*place].wants - given[*place]).sum(),
                is_brisk: own.iter().any(|place| asks[*place].is_brisk),
            }
        })
        .collect();
    let most = most(&levels);
    let most = |level: &Level| if level.is_brisk { most.brisk } else { most.other };
    let levels: Vec<_> = levels.iter().map(|level| (level.has, level.wants.min(most(level).saturating_sub(level.has)))).collect();
    let shares = raise(&levels, amount);
    for (org, share) in orgs.iter().zip(&shares) {
        let own = &lanes[org];
        let levels: Vec<_> = own.iter().map(|place| (asks[*place].has + given[*place], asks[*place].wants - given[*place])).collect();
        for (place, more) in own.iter().zip(raise(&levels, *share)) {
            given[*place] += more;
        }
    }
    amount - shares.iter().sum::<usize>()
}

/// Shares `amount` among those who have and want: the lowest are raised first, all to one level.
fn raise(levels: &[(usize, usize)], amount: usize) -> Vec<usize> {
    let at = |level: usize| levels.iter().map(move |(has, wants)| level.saturating_sub(*has).min(*wants));
    let (mut low, mut high) = (0, levels.iter().map(|(has, wants)| has.saturating_add(*wants)).max().unwrap_or(0));
    // The highest level that the amount reaches.
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        match at(middle).sum::<usize>() <= amount {
            true => low = middle,
            false => high = middle - 1,
        }
    }
    let mut given: Vec<usize> = at(low).collect();
    let mut left = amount - given.iter().sum::<usize>();
    for ((has, wants), given) in levels.iter().zip(&mut given) {
        if left > 0 && *given < *wants && has + *given == low {
            *given += 1;
            left -= 1;
        }
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `asks`: organization, has, wants. What lanes have is all that is in hand, but for `others`.
    fn shared(rows_max: usize, asks: &[(i64, usize, usize)], others: &[(i64, usize)]) -> Vec<usize> {
        shared_by(false, rows_max, asks, others)
    }

    fn shared_by(is_brisk: bool, rows_max: usize, asks: &[(i64, usize, usize)], others: &[(i64, usize)]) -> Vec<usize> {
        let mut in_hand = BTreeMap::new();
        for (org, has) in asks.iter().map(|(org, has, _)| (org, has)).chain(others.iter().map(|(org, has)| (org, has))) {
            *in_hand.entry(OrgId(*org)).or_default() += has;
        }
        let held: usize = in_hand.values().sum();
        let asks: Vec<Ask> = asks.iter().map(|(org, has, wants)| Ask { org: OrgId(*org), has: *has, wants: *wants, is_brisk }).collect();
        let given = parts(Pool { rows_max, in_hand: &in_hand }, &asks);
        assert!(given.iter().sum::<usize>() <= rows_max.saturating_sub(held), "{given:?}");
        assert!(given.iter().zip(&asks).all(|(given, ask)| *given <= ask.wants), "{given:?}");
        given
    }

    #[test]
    fn one_organization_alone_gets_all_but_the_reserve() {
        assert_eq!(shared(128, &[(1, 0, 1_000)], &[]), [112]);
        assert_eq!(shared(128, &[(1, 112, 1_000)], &[]), [0]);
        assert_eq!(shared(128, &[(1, 0, 30)], &[]), [30]);
        assert_eq!(shared(16, &[(1, 0, 8)], &[]), [8]);
    }

    #[test]
    fn organizations_get_equal_parts_whatever_the_number_of_their_lanes() {
        let ten_lanes: Vec<_> = (0..10).map(|_| (1, 0, 100)).chain([(2, 0, 100)]).collect();
        let given = shared(128, &ten_lanes, &[]);
        assert_eq!((given[..10].iter().sum::<usize>(), given[10]), (56, 56));
        assert_eq!(given[..10], [6, 6, 6, 6, 6, 6, 5, 5, 5, 5]);
    }

    #[test]
    fn what_is_in_hand_counts() {
        assert_eq!(shared(128, &[(1, 60, 100), (2, 0, 100)], &[]), [0, 52]);
        assert_eq!(shared(128, &[(1, 20, 100), (2, 0, 100)], &[]), [36, 56]);
        assert_eq!(shared(128, &[(1, 0, 100), (2, 0, 100)], &[(1, 40)]), [16, 56], "in lanes that ask for nothing too");
        assert_eq!(shared(128, &[(1, 50, 100), (1, 0, 100)], &[]), [6, 56], "the organization's other lane comes first");
    }

    #[test]
    fn one_client_at_a_silent_server_does_not_keep_the_others_out() {
        let silent = (1, 112, 1_000);
        assert_eq!(shared(128, &[silent, (2, 0, 100)], &[]), [0, 4]);
        assert_eq!(shared(128, &[silent, (2, 4, 100)], &[]), [0, 0], "the rest is for the next newcomers");
        assert_eq!(shared(128, &[silent, (2, 4, 100), (3, 0, 100), (4, 0, 100)], &[]), [0, 0, 2, 2], "and those after them");
    }

    #[test]
    fn organizations_that_fall_silent_one_after_another_leave_each_newcomer_less_but_something() {
        let (mut in_hand, mut got) = (Vec::new(), Vec::new());
        loop {
            let org = i64::try_from(in_hand.len()).unwrap();
            let rows = shared(512, &[(org, 0, 30)], &in_hand)[0];
            if rows == 0 {
                break;
            }
            in_hand.push((org, rows));
            got.push(rows);
        }
        assert_eq!(got[..15], [[30; 14].as_slice(), &[28]].concat());
        assert_eq!(got[15..], [16, 12, 9, 6, 5, 4, 3, 2, 1, 1, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn organizations_whose_clients_are_brisk_get_whole_parts_of_the_reserve() {
        let full = [(9, 448)];
        assert_eq!(shared_by(true, 512, &[(1, 0, 64), (2, 0, 64), (3, 0, 64), (4, 0, 64)], &full), [16, 16, 16, 16]);
        assert_eq!(shared_by(false, 512, &[(1, 0, 64), (2, 0, 64), (3, 0, 64), (4, 0, 64)], &full), [9, 9, 9, 9]);
    }

    #[test]
    fn five_clients_at_silent_servers_do_not_keep_the_others_out() {
        let mut asks: Vec<_> = (1..=5).map(|org| (org, 0, 30)).collect();
        let first = shared(128, &asks, &[]);
        assert_eq!(first, [23, 23, 22, 22, 22]);
        asks.iter_mut().zip(first).for_each(|(ask, got)| *ask = (ask.0, got, 30 - got));
        asks.push((6, 0, 30));
        assert_eq!(shared(128, &asks, &[]), [0, 0, 0, 0, 0, 4]);
    }

    #[test]
    fn a_lane_with_nothing_gets_in_beside_its_own_organizations_silent_one() {
        assert_eq!(shared(128, &[(1, 112, 1_000), (1, 0, 100)], &[]), [0, 1]);
        let many: Vec<_> = std::iter::once((1, 112, 1_000)).chain((0..20).map(|_| (1, 0, 100))).collect();
        assert_eq!(shared(128, &many, &[]).iter().sum::<usize>(), 8, "half the reserve stays for newcomers");
        let newcomer: Vec<_> = many.into_iter().chain([(2, 0, 3)]).collect();
        assert_eq!(shared(128, &newcomer, &[]).last(), Some(&3));
    }

    #[test]
    fn small_pools_work() {
        assert_eq!(shared(1, &[(1, 0, 10), (2, 0, 10)], &[]), [1, 0]);
        assert_eq!(shared(2, &[(1, 0, 10), (2, 0, 10), (3, 0, 10)], &[]), [1, 1, 0]);
        assert_eq!(shared(8, &[(1, 7, 10), (2, 0, 10)], &[]), [0, 1]);
        assert_eq!(shared(8, &[(1, 9, 10)], &[]), [0], "more in hand than a smaller pool that was configured since");
        assert_eq!(shared(8, &[], &[]), Vec::<usize>::new());
    }
}
