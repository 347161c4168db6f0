//! Somebody who looks all the time while mail is sent.

use crate::product::service::Service;
use std::pin::pin;
use std::time::{Duration, Instant};

/// Between two questions to one service.
const EVERY: Duration = Duration::from_millis(5);

/// How long each answer took, in milliseconds.
#[derive(Default)]
pub struct Looks {
    pub mail_stats: Vec<f64>,
    pub emails: Vec<f64>,
}

/// Asks both services until the work is done; answers what the work does and how long the answers took.
pub async fn looks<T>(service: &Service, work: impl Future<Output = T>) -> (T, Looks) {
    let mut looks = Looks::default();
    let (stats, emails) = (format!("{}/mail_stats?email_id=1", service.health), format!("{}/emails", service.warmup));
    let done = {
        let mut work = pin!(work);
        let mut asked = pin!(async { tokio::join!(ask(service, &stats, &mut looks.mail_stats), ask(service, &emails, &mut looks.emails)) });
        tokio::select! {
            done = &mut work => done,
            _ = &mut asked => unreachable!("asking has no end"),
        }
    };
    (done, looks)
}

async fn ask(service: &Service, url: &str, took_ms: &mut Vec<f64>) {
    loop {
        let begun = Instant::now();
        let answer = service.client.get(url).send().await.expect("it answers");
        // 404: health has not heard of the email yet.
        assert!(matches!(answer.status().as_u16(), 200 | 404), "{url}: {}", answer.status());
        answer.bytes().await.expect("a body");
        took_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(EVERY).await;
    }
}
