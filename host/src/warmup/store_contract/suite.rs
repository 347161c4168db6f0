//! The cases of the contract as tests of an adapter.

/// Makes a test of each case for the adapter that `$open` opens. It is asked in each test, so that `$open` may skip the
/// test and return where the adapter's server is absent.
macro_rules! store_contract {
    ($open:expr) => {
        $crate::warmup::store_contract::suite::store_contract! { $open, main:
            an_address_registers_once_whatever_its_case
            an_address_registers_once_however_its_domain_is_written_and_is_shown_as_given
            a_broadcast_reaches_who_was_registered_before_it_and_its_counts_add_up
            what_waits_is_known_by_lane_with_what_stands_before_it
            what_a_dead_process_had_in_hand_is_found_as_it_was_claimed_and_nothing_else
            what_was_in_hand_is_settled_like_any_outcome
            a_backfill_in_doubt_holds_the_rest_of_the_archive_up_for_hold_max_at_most
            a_person_resends_or_drops_what_is_unknown
            deferred_mail_waits_for_its_time_and_goes_before_fresh_mail
            a_message_that_was_not_attempted_is_as_it_was_and_tells_nobody
            who_unsubscribes_gets_nothing_more_and_registering_again_does_not_lift_it
            a_newcomer_gets_the_earlier_emails_in_order_each_once_at_the_pace
            live_mail_and_backfill_to_one_provider_are_lanes_of_their_own
            a_deferred_email_holds_the_next_one_up_for_hold_max_at_most
            an_idempotency_key_gives_the_same_answer_for_a_day
            an_email_comes_back_as_it_was_accepted
            what_the_limits_counted_survives
            published_records_leave_the_outbox_in_order
        }
        $crate::warmup::store_contract::suite::store_contract! { $open, order:
            organizations_take_turns_in_fan_out_and_their_emails_go_in_order
            the_number_of_a_turn_is_committed_with_it
            live_mail_is_due_whatever_the_clock_shows
            what_came_back_unsent_goes_before_newer_mail
            what_is_handed_to_another_client_is_in_its_hand
            a_clock_set_back_lets_no_retry_wait_longer_than_its_back_off
            nor_does_one_that_was_set_back_between_two_starts
            what_is_recorded_after_the_clock_was_set_back_waits_no_longer_either
            an_idempotency_key_is_kept_a_day_from_when_the_clock_was_set_back
        }
        $crate::warmup::store_contract::suite::store_contract! { $open, lanes:
            a_lookup_that_fails_leaves_the_provider_that_is_known
            a_retry_of_the_archive_waits_for_the_pace
            no_two_of_an_archive_are_on_their_way_to_a_recipient_at_a_time
            what_may_have_arrived_counts_for_the_pace_and_what_was_dropped_does_not
            the_pace_ends_in_time_after_the_clock_was_set_back
        }
        $crate::warmup::store_contract::suite::store_contract! { $open, histories:
            a_random_history_is_told_as_it_was
        }
    };
    ($open:expr, main: $($case:ident)+) => {
        $(
            #[tokio::test]
            async fn $case() {
                $crate::warmup::store_contract::$case($open).await;
            }
        )+
    };
    ($open:expr, $part:ident: $($case:ident)+) => {
        $(
            #[tokio::test]
            async fn $case() {
                $crate::warmup::store_contract::$part::$case($open).await;
            }
        )+
    };
}
pub(crate) use store_contract;
