//! The rules that a check can switch off, one by one.

/// A part of a rule of the global layer that can be switched off. The names begin with the number of the rule.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rule {
    /// TakeOver is accepted only if the epoch is still the one before.
    R1Epoch,
    /// TakeOver is accepted only if no newer renewal was applied.
    R1Renewal,
    /// A candidate waits until the home lease that it saw has run out.
    R1Wait,
    /// A gap in a stream is refused.
    R2Gap,
    /// Settle only when the stream's end, its seal, is merged.
    R3End,
    /// A key that a lost epoch may hide is granted flagged only.
    R4Flag,
    /// After the seal nothing of the epoch commits in its region.
    R5Seal,
    /// Not in the rules as written: a region seals an ended epoch of its own that it never opened.
    R5Unopened,
    /// Without a settled past a key is not granted.
    R6Gate,
    /// What the replica shows counts as known.
    R6Replica,
    /// Of an unsettled older epoch only completions are trusted.
    R6Trust,
    /// Apply refuses a Reserve if the region knows a token that the entry does not name.
    R7Named,
    /// Apply decides without the replica of the node that it runs on.
    R7Entry,
    /// Held records of settled epochs are imported.
    R7Import,
    /// Not in the rules as written: with them comes how the region's own records ended elsewhere.
    R7ImportEnds,
    /// A grant is answered only while the home lease runs.
    R8Lease,
    /// A grant is answered only in the epoch of its entry.
    R8Epoch,
    /// A grant is answered only while it is the current one and its own lease runs.
    R8Winner,
    /// A grant is answered only if the replica shows no token that the entry did not name.
    R8Replica,
    /// Not in the rules as written: a grant is voided only by the leader that proposed it, and only if it told nobody of it;
    /// otherwise the grant's lease runs out like any other's.
    R8VoidUntold,
    /// The same nonce gets the same grant.
    R9Same,
    /// A grant that is answered again is flagged if the past is in doubt.
    R9Flag,
    /// A new attempt takes a new nonce.
    R9Fresh,
    /// A token that the region never saw is adopted.
    R10Adopt,
    /// Merge keeps every token, not the winner alone.
    R11Keep,
    /// Merge keeps every envelope of a token.
    R11Envelopes,
    /// A completion that commits when another is known is marked late.
    R11Late,
    /// Not in the rules as written: what the proposer of a Complete read of the replica counts as known, too.
    R11LateReplica,
    /// Not in the rules as written: a flagged held loser is in the ledger if its token is higher than the winner's.
    R11HigherHeld,
    /// Not in the rules as written: `global`: held records of ended epochs that are in the global log are trusted, and
    /// imported at Open, before their epoch is settled.
    R12Trust,
    /// `global`: an answer waits until the replica shows the record.
    R12Wait,
    /// `global`: an answer needs a replica that still shows the entry's epoch.
    R12Epoch,
    /// `global`: a held record that arrives as tail is void.
    R12Tail,
    /// `global`: a region's own records of older epochs count through the replica only.
    R12Own,
    /// `global`: only epochs that were wholly `global` skip the gate.
    R12Wholly,
    /// A region refuses a key that was minted in a later epoch.
    R13Superseded,
    /// A grant past `start_within` is dropped.
    R13Start,
    /// An answer that is no refusal keeps the key.
    R13Remint,
    /// A planned switchover needs all older epochs settled.
    R14Settled,
    /// A planned TakeOver is refused unless the watermark is at the stream's end.
    R14End,
    /// A planned TakeOver settles the epoch that it ends.
    R14Settles,
    /// An absent key at or below the horizon is expired.
    R15Horizon,
    /// Not in the rules as written: the horizon stands in the region's own state, and apply looks at it.
    R15Apply,
    /// A record goes only when every epoch of its key is settled or retired.
    R15Settled,
    /// Not in the rules as written: the acting region first removes the record from its own log's state, if no attempt of
    /// it is held there, and has a horizon from then on; the global sweep follows.
    R15Held,
    /// Only completed records go.
    R15Completed,
    /// A restored region is a new incarnation: the old one's stream is refused, and its open epoch is lost.
    R16Incarnation,
    /// Tokens of `local` grants bear their region.
    R17Region,
    /// Not in the rules as written: what another region's `local` stream holds is lapsed for everybody else.
    R17Others,
    /// Not a numbered rule: a second grant after a lapse, and a claim, are flagged.
    LapseFlag,
    /// Not a numbered rule: Release with a token that is not the current one is refused.
    StaleRelease,
}

impl Rule {
    /// All of them.
    pub const ALL: &[Rule] = &[
        Rule::R1Epoch,
        Rule::R1Renewal,
        Rule::R1Wait,
        Rule::R2Gap,
        Rule::R3End,
        Rule::R4Flag,
        Rule::R5Seal,
        Rule::R5Unopened,
        Rule::R6Gate,
        Rule::R6Replica,
        Rule::R6Trust,
        Rule::R7Named,
        Rule::R7Entry,
        Rule::R7Import,
        Rule::R7ImportEnds,
        Rule::R8Lease,
        Rule::R8Epoch,
        Rule::R8Winner,
        Rule::R8Replica,
        Rule::R8VoidUntold,
        Rule::R9Same,
        Rule::R9Flag,
        Rule::R9Fresh,
        Rule::R10Adopt,
        Rule::R11Keep,
        Rule::R11Envelopes,
        Rule::R11Late,
        Rule::R11LateReplica,
        Rule::R11HigherHeld,
        Rule::R12Trust,
        Rule::R12Wait,
        Rule::R12Epoch,
        Rule::R12Tail,
        Rule::R12Own,
        Rule::R12Wholly,
        Rule::R13Superseded,
        Rule::R13Start,
        Rule::R13Remint,
        Rule::R14Settled,
        Rule::R14End,
        Rule::R14Settles,
        Rule::R15Horizon,
        Rule::R15Apply,
        Rule::R15Settled,
        Rule::R15Held,
        Rule::R15Completed,
        Rule::R16Incarnation,
        Rule::R17Region,
        Rule::R17Others,
        Rule::LapseFlag,
        Rule::StaleRelease,
    ];
}

/// Which rules hold: all but those switched off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rules(u64);

impl Rules {
    /// Every rule.
    #[must_use]
    pub const fn all() -> Rules {
        Rules(0)
    }

    /// The same without one more.
    #[must_use]
    pub const fn without(self, rule: Rule) -> Rules {
        Rules(self.0 | 1 << rule as u64)
    }

    pub(crate) const fn on(self, rule: Rule) -> bool {
        self.0 & 1 << rule as u64 == 0
    }
}
