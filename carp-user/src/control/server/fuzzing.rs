//! What is asserted of any client of the control socket.

use std::{cell::OnceCell, collections::BTreeMap, future::pending};

use carp_common::engine::Vhid;
use tokio::{runtime::Builder, runtime::Runtime, sync::mpsc::Receiver};

use super::{
    super::{
        Applied, Target, commands,
        protocol::{Status, VERSION, What},
    },
    *,
};

/// The longest answer: a request may come back in one, each byte of it escaped, and that once more.
const LONGEST: usize = 8 * REQUEST as usize + 1024;
/// The only virtual host there is.
const INTERFACE: &str = "eth0";
const VHID: u8 = 7;

/// Has a client send this, and hear all that there is to hear: it is answered, in lines of JSON, and not at length.
pub fn control(input: &[u8]) {
    thread_local! {
        static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() };
    }
    let first = input.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let first = &first[..first.len().min(REQUEST as usize)];
    // These two go to the disk: they are tested on a host.
    if let Ok(Request::Maintenance { .. } | Request::Upgrade) = serde_json::from_slice(first) {
        return;
    }
    RUNTIME.with(|runtime| {
        let runtime = runtime.get_or_init(|| Builder::new_current_thread().enable_all().build().expect("a runtime"));
        let answer = runtime.block_on(answer(input));
        assert!(answer.len() <= LONGEST, "{} bytes", answer.len());
        assert_eq!(answer.last(), Some(&b'\n'), "no whole answer");
        for line in answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            serde_json::from_slice::<Reply>(line).expect("an answer");
        }
    });
}

async fn answer(input: &[u8]) -> Vec<u8> {
    let (mut client, server) = UnixStream::pair().expect("a pair of sockets");
    let (commands, orders) = commands();
    let history = History::new();
    history.push(What::Alarm { severity: "warning".to_owned(), text: "it rains".to_owned() });
    let desk = Desk {
        reload: Reload::new(None, commands.clone()),
        commands,
        history,
        maintenance: Arc::default(),
        successor: Arc::new(Successor::new([]).expect("a program")),
    };
    client.write_all(input).await.expect("there is room for it");
    client.shutdown().await.expect("it is open");
    let mut answer = vec![];
    let read = async {
        // What it has not read is why the connection ends so.
        let read = client.read_to_end(&mut answer).await;
        assert!(read.is_ok() || input.len() as u64 > REQUEST, "the connection broke");
    };
    select! {
        (served, ()) = async { tokio::join!(serve(server, desk, Arc::new(Semaphore::new(1))), read) } => {
            served.expect("it is served");
        }
        // It does not end.
        () = agent(orders) => {}
    }
    answer
}

/// Does what it is asked to.
async fn agent(mut orders: Receiver<Command>) {
    let done = |target: &Target| {
        let is_meant = target.is(INTERFACE, Vhid::new(VHID).expect("in range"));
        if is_meant { Ok("done".to_owned()) } else { Err("there is no such virtual host".to_owned()) }
    };
    while let Some(command) = orders.recv().await {
        match command {
            Command::Status(reply) => drop(reply.send(Box::new(status()))),
            Command::Demote { target, reply, .. } | Command::SealWith { target, reply, .. } => {
                drop(reply.send(done(&target)));
            }
            Command::Maintenance { reply, .. } => drop(reply.send(Ok("done".to_owned()))),
            Command::Apply { reply, .. } => {
                drop(reply.send(Ok(Applied { changes: "none".to_owned(), troubles: vec![] })))
            }
            Command::PlanUpgrade { reply, .. } => drop(reply.send("nothing".to_owned())),
            Command::Upgrade { failed, .. } => drop(failed.send(Err("no".to_owned()))),
        }
    }
    pending().await
}

fn status() -> Status {
    Status {
        version: VERSION,
        carpd: String::new(),
        pid: 1,
        configuration: None,
        maintenance: false,
        counter_floor: false,
        virtual_hosts: vec![],
        received_for_none: BTreeMap::new(),
    }
}
