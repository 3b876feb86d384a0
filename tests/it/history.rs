//! What was asked of the store and what it answered, in real time: the one thing that the checker looks at.

/// A key of the workload, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct KeyId(pub(crate) u32);

/// The random name of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Nonce(pub(crate) u64);

/// The request that a key is used for: two of them have two fingerprints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Request(pub(crate) u32);

/// A fencing token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Token {
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
}

/// A digest over every byte of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Envelope(pub(crate) [u8; 32]);

/// A recovery point, by number; 0 in an answer stands for one that nobody wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Checkpoint(pub(crate) u64);

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Reserve { nonce: Nonce, request: Request, lease_ms: u32 },
    Complete { token: Token, envelope: Envelope },
    Release { token: Token },
    Extend { token: Token, lease_ms: u32 },
    Checkpoint { token: Token, checkpoint: Checkpoint },
    Claim { nonce: Nonce, lease_ms: u32 },
}

/// How a completion was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Recorded {
    Answer,
    Repeated,
    Late,
}

/// What was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    Granted {
        token: Token,
        repeated: bool,
        flagged: bool,
        checkpoint: Option<Checkpoint>,
    },
    Replay(Envelope),
    Mismatch,
    InProgress,
    OutcomeUnknown,
    Completed(Recorded),
    Released,
    Extended,
    Checkpointed,
    NotClaimable,
    StaleToken,
    /// A failure that says of itself that nothing was done, nor will be.
    Refused,
    /// No answer, or a failure that leaves open whether it was done. It may have been, or may yet be.
    Unknown,
}

/// One call. Stamps are nanoseconds of one monotonic clock; `invoked_ns` was taken before the request was sent and
/// `returned_ns` after the answer came, so `a.returned_ns < b.invoked_ns` means that a was over before b began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) key: KeyId,
    pub(crate) call: Call,
    pub(crate) answer: Answer,
    pub(crate) invoked_ns: u64,
    pub(crate) returned_ns: u64,
    /// The node that was asked, or the process where there is one node.
    pub(crate) node: u64,
    /// The position that the answer may not be older than.
    pub(crate) seen: Option<u64>,
    /// How far the log was applied where it was answered; nothing if the answer does not say it.
    pub(crate) position: Option<u64>,
}

/// Everything that happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) ops: Vec<Op>,
    /// When each process of an only node was gone, ascending. A call sent to it cannot take effect later than that.
    ///
    /// Empty for a region: what one node took in, another may commit long after the first is dead.
    pub(crate) deaths_ns: Vec<u64>,
    /// What was done to the nodes and when, for whoever reads a verdict. No judge looks at it.
    pub(crate) events: Vec<(u64, String)>,
}

/// What the store does with a key whose lease ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnLapse {
    Regrant,
    Hold,
}

impl History {
    /// The last moment at which a call may take effect: its answer, or, when there was none, the death of the process it
    /// was sent to if that is known to end it. Else it stays open.
    pub(crate) fn ends_ns(&self, op: &Op) -> u64 {
        match op.answer {
            Answer::Unknown => self.deaths_ns.iter().copied().find(|death| *death > op.invoked_ns).unwrap_or(u64::MAX),
            Answer::Granted { .. }
            | Answer::Replay(_)
            | Answer::Mismatch
            | Answer::InProgress
            | Answer::OutcomeUnknown
            | Answer::Completed(_)
            | Answer::Released
            | Answer::Extended
            | Answer::Checkpointed
            | Answer::NotClaimable
            | Answer::StaleToken
            | Answer::Refused => op.returned_ns,
        }
    }
}
