use super::*;
use crate::warmup::sqlite::testing::{database, steps};

fn settle_part(connection: &Connection, context: &mut Context, part: Part) -> (usize, UserNumber) {
    resolve(connection, context, (OrgId(1), EmailNumber(1)), &part, Action::Drop, 5).unwrap()
}

#[test]
fn a_named_recipient_is_found_without_a_walk_over_the_emails_deliveries() {
    let folder = tempfile::tempdir().unwrap();
    let (connection, mut context) = database(&folder, 20_000);
    let named = ["U3000@x.example", "u3000@x.example", "u4000@x.example", "u1@x.example", "nobody@x.example"];
    let named = named.iter().map(|a| Address::parse(a).unwrap()).collect();
    assert_eq!(settle_part(&connection, &mut context, Part::Named(named)), (2, UserNumber(4000)));
    assert!(steps(&connection, UNKNOWN_BY_NAME) < 500, "{} steps", steps(&connection, UNKNOWN_BY_NAME));
}

#[test]
fn all_are_settled_in_parts_that_look_only_at_rows_in_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let (connection, mut context) = database(&folder, 20_000);
    assert_eq!(settle_part(&connection, &mut context, Part::Behind(UserNumber(0), 12)), (12, UserNumber(12_000)));
    assert_eq!(settle_part(&connection, &mut context, Part::Behind(UserNumber(12_000), 12)), (8, UserNumber(20_000)));
    assert_eq!(settle_part(&connection, &mut context, Part::Behind(UserNumber(0), 12)), (0, UserNumber(0)));
    assert!(steps(&connection, UNKNOWN) < 2_500, "{} steps", steps(&connection, UNKNOWN));
    let (failed, unknown): (i64, i64) =
        connection.query_row("SELECT failed, unknown FROM progress", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!((failed, unknown), (20, 0));
}
