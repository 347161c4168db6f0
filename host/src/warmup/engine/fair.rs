//! Who may have how much in hand: the pool of rows in `sending`, shared among organizations and then among their lanes.
//!
//! What a lane has in hand already counts as its part, so that whoever waits for a silent server gets no more until others
//! have as much. The last part of the pool is a reserve: rows for organizations that have next to nothing in hand, so that
//! those who came first never keep everybody else out, however long their servers are silent.
//!
//! Invariant: pure; no more is given than is free and no lane gets more than it asks for. Where rows are free and an
//! organization with nothing in hand asks, it gets some.

use crate::model::name::OrgId;
use std::collections::BTreeMap;

/// One part in this of the pool is the reserve.
const RESERVE_PART: usize = 8;
/// One part in this of the reserve is what one organization gets of it.
const SMALL_PART: usize = 4;

/// What a lane has and asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    pub org: OrgId,
    /// Rows of the lane in hand.
    pub has: usize,
    /// How many more it could use.
    pub wants: usize,
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
    let open = among_organizations(pool, asks, &mut given, (free.saturating_sub(reserve), usize::MAX));
    let left = free.min(reserve) + open;
    let left = among_organizations(pool, asks, &mut given, (left, small));
    // A lane with nothing is let in beside its organization's silent one, as long as newcomers still find half the reserve.
    let spare = left.saturating_sub(reserve / 2);
    let waiting = asks.iter().zip(&mut given).filter(|(ask, given)| ask.has + **given == 0 && ask.wants > 0);
    waiting.take(spare).for_each(|(_, given)| *given = 1);
    given
}

/// Gives `amount` to organizations that have less than `most`, the least first; answers what nobody took.
fn among_organizations(pool: Pool<'_>, asks: &[Ask], given: &mut [usize], (amount, most): (usize, usize)) -> usize {
    let mut orgs: Vec<OrgId> = Vec::new();
    let mut lanes: BTreeMap<OrgId, Vec<usize>> = BTreeMap::new();
    for (place, ask) in asks.iter().enumerate() {
        let of_org = lanes.entry(ask.org).or_default();
        if of_org.is_empty() {
            orgs.push(ask.org);
        }
        of_org.push(place);
    }
    let levels: Vec<(usize, usize)> = orgs
        .iter()
        .map(|org| {
            let own = &lanes[org];
            let has = pool.in_hand.get(org).copied().unwrap_or(0) + own.iter().map(|place| given[*place]).sum::<usize>();
            let wants = own.iter().map(|place| asks[*place].wants - given[*place]).sum::<usize>();
            (has, wants.min(most.saturating_sub(has)))
        })
        .collect();
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
        let mut in_hand = BTreeMap::new();
        for (org, has) in asks.iter().map(|(org, has, _)| (org, has)).chain(others.iter().map(|(org, has)| (org, has))) {
            *in_hand.entry(OrgId(*org)).or_default() += has;
        }
        let asks: Vec<Ask> = asks.iter().map(|(org, has, wants)| Ask { org: OrgId(*org), has: *has, wants: *wants }).collect();
        let given = parts(Pool { rows_max, in_hand: &in_hand }, &asks);
        let held: usize = in_hand.values().sum();
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
        assert_eq!(shared(128, &[silent, (2, 4, 100), (3, 0, 100), (4, 0, 100)], &[]), [0, 0, 4, 4]);
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
