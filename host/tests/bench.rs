//! The parts of `make bench` that decide and read. Their tests stand here because the bench is a program without a harness.

#[path = "../benches/bench/arguments.rs"]
mod arguments;
#[path = "../benches/bench/sinks/dialogue.rs"]
mod dialogue;
#[path = "../benches/bench/readings.rs"]
mod readings;
#[path = "../benches/bench/stats.rs"]
mod stats;

mod arguments_tests {
    use super::arguments::{Arguments, Extent, parse};

    fn parsed(line: &str) -> Result<Arguments, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words, &["cpu", "rtt"])
    }

    #[test]
    fn names_sizes_and_extents_stand_in_any_order() {
        let wanted = |names: &[&str], extent, rounds, rows| {
            Ok(Arguments { names: names.iter().map(|name| (*name).to_owned()).collect(), extent, rounds, rows })
        };
        assert_eq!(parsed("--bench"), wanted(&[], Extent::Usual, 5, 100_000));
        assert_eq!(parsed("rtt --rounds 7 cpu --rows 2_000"), wanted(&["rtt", "cpu"], Extent::Usual, 7, 2_000));
        assert_eq!(parsed("--small"), wanted(&[], Extent::Small, 3, 20_000));
        assert_eq!(parsed("--rounds 2 --full"), wanted(&[], Extent::Full, 2, 100_000));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert_eq!(parsed("cpu gpu"), Err("there is no bench or option `gpu`; --list names the benches, --help the options".to_owned()));
        for line in ["--rounds", "--rounds x", "--rows 0"] {
            assert_eq!(parsed(line), Err(format!("{} needs a number", line.split(' ').next().unwrap())), "{line}");
        }
    }
}

mod dialogue_tests {
    use super::dialogue::{Dialogue, Next};

    /// Feeds `input` in pieces of `size`; answers the codes of the replies, what was accepted and the last step.
    fn answers(input: &[u8], size: usize) -> (Vec<String>, u64, Next) {
        let (mut dialogue, mut replies, mut buffer, mut next) = (Dialogue::new(true), Vec::new(), Vec::new(), Next::Go);
        for piece in input.chunks(size) {
            buffer.extend_from_slice(piece);
            let (done, step) = dialogue.take(&buffer, &mut replies);
            buffer.drain(..done);
            next = step;
            if next != Next::Go {
                break;
            }
        }
        let lines = String::from_utf8(replies).unwrap();
        (lines.lines().map(|line| line[..4].trim().to_owned()).collect(), dialogue.accepted, next)
    }

    #[test]
    fn a_session_is_answered_alike_in_pieces_of_any_size() {
        let session = b"EHLO a\r\nMAIL FROM:<a@b>\r\nrcpt to:<c@d>\r\nDATA\r\nSubject: x\r\n\r\n..dot\r\n.\r\nMAIL\r\nRCPT\r\nDATA\r\n.\r\nWHAT\r\nQUIT\r\n";
        let codes = ["250-", "250-", "250-", "250", "250", "250", "354", "250", "250", "250", "354", "250", "500", "221"];
        for size in 1..=session.len() {
            assert_eq!(answers(session, size), (codes.map(str::to_owned).to_vec(), 2, Next::Close), "in pieces of {size}");
        }
    }

    #[test]
    fn tls_is_begun_once() {
        assert_eq!(answers(b"STARTTLS\r\nNOOP\r\n", 64), (vec!["220".to_owned()], 0, Next::StartTls));
        let (mut dialogue, mut replies) = (Dialogue::new(false), Vec::new());
        assert_eq!(dialogue.take(b"STARTTLS\r\n", &mut replies), (10, Next::Go));
        assert!(replies.starts_with(b"500 "));
    }
}

mod readings_tests {
    use super::readings::*;

    #[test]
    fn cpu_is_read_behind_a_name_with_anything_in_it() {
        let text = "1234 (a) b (c) S 1 1234 1234 0 -1 4194304 5 6 0 0 250 50 700 300 20 0 1 0 5 0";
        assert_eq!(seconds_of_stat(text, &[11, 12]), 3.0);
        assert_eq!(seconds_of_stat(text, &[13, 14]), 10.0);
        assert_eq!(seconds_of_stat("", &[11, 12]), 0.0);
    }

    #[test]
    fn waiting_is_no_work() {
        assert_eq!(seconds_of_all_cores("cpu  100 200 300 9999 9999 50 50 40 0 0\ncpu0 1 1 1 1"), (7.0, 0.4));
    }

    #[test]
    fn a_size_is_found_by_its_whole_name() {
        let text = "VmPeak:\t  999 kB\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\n";
        assert_eq!((mb_of_status(text, "VmHWM"), mb_of_status(text, "VmRSS"), mb_of_status(text, "Vm")), (20.0, 10.0, 0.0));
    }

    #[test]
    fn every_listener_counts_and_no_connection() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                    0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 111 1 0 100 0 0 10 0\n\
                    1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 222 1 0 100 0 0 10 0\n\
                    2: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000 0 0 333 1 0 100 0 0 10 0\n\
                    3: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 444 1 0 100 0 0 10 0\n";
        assert_eq!((listeners(text, 8080), listeners(text, 8081), listeners(text, 25)), (vec![111, 222], vec![444], vec![]));
    }

    #[test]
    fn the_series_of_a_metric_are_added_up() {
        let text = "# TYPE m_total counter\nm_total{organization=\"a\",state=\"sent\"} 5\nm_total{organization=\"b\",state=\"sent\"} 7\n\
                    m_total{organization=\"a\",state=\"failed\"} 100\nm_total_more{state=\"sent\"} 1000\nplain 3\n";
        assert_eq!(metric(text, "m_total", "state=\"sent\""), 12.0);
        assert_eq!((metric(text, "plain", ""), metric(text, "absent", "")), (3.0, 0.0));
    }

    #[test]
    fn signatures_are_the_third_figure_of_the_row() {
        let text =
            "version: 3.0.19\n                  sign    verify    sign/s verify/s\nrsa 2048 bits 0.000369s 0.000011s   2709.2  91000.1\n";
        assert_eq!(rsa_signatures_per_second(text), Some(2709.2));
        assert_eq!(rsa_signatures_per_second("rsa 1024 bits 1s 1s 1 1"), None);
    }

    #[test]
    fn a_program_says_a_figure_on_a_line_of_its_own() {
        assert_eq!(said("warning: x\nseconds 1.25\n", "seconds"), Some(1.25));
        assert_eq!(said("seconds_more 1", "seconds"), None);
    }
}

mod stats_tests {
    use super::stats::*;

    #[test]
    fn the_median_is_the_middle_one_whatever_the_order() {
        for (figures, wanted) in [(&[][..], None), (&[7.0], Some(7.0)), (&[9.0, 1.0, 2.0], Some(2.0)), (&[4.0, 1.0, 2.0, 30.0], Some(3.0))]
        {
            assert_eq!(median(figures), wanted, "{figures:?}");
        }
    }

    #[test]
    fn a_percentile_is_a_figure_that_was_measured() {
        let figures: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        for (part, wanted) in [(0.0, 1.0), (0.5, 100.0), (0.99, 198.0), (1.0, 200.0)] {
            assert_eq!(percentile(&figures, part), Some(wanted), "{part}");
        }
        assert_eq!(percentile(&[], 0.99), None);
    }

    #[test]
    fn thousands_stand_apart() {
        for (number, wanted) in [(0, "0"), (999, "999"), (1_000, "1,000"), (10_000_000, "10,000,000")] {
            assert_eq!(grouped(number), wanted);
        }
    }
}
