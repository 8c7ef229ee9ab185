//! Every bound, with its unit, on one page (HOUSE habit 9).
//!
//! What a sandbox can send is bounded here and nowhere else; each bound is met by a test.

pub mod bucket;

use std::time::Duration;

/// Bytes of a ClientHello, over all its records (POLICY §4).
pub const HELLO_BYTES: usize = 16 * 1024;
/// From accept to the end of the ClientHello, or of the first HTTP head (POLICY §4).
pub const HELLO_TIME: Duration = Duration::from_secs(10);
/// How long a client may be silent before its flow counts as "server speaks first" (POLICY §4).
pub const SILENT_CLIENT: Duration = Duration::from_millis(300);
/// From the end of the peek to the end of the sandbox's TLS handshake.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Bytes of one HTTP head: request line and header fields.
pub const HEAD_BYTES: usize = 64 * 1024;
/// Header fields in one head: as many as the HTTP library takes without an allocation.
pub const HEAD_FIELDS: usize = 100;
/// From the first byte of a request head to its last.
pub const HEAD_TIME: Duration = Duration::from_secs(30);
/// How long a connection is still read after its last answer, so that a client that is sending gets to read it.
pub const LINGER: Duration = Duration::from_secs(1);
/// HTTP/2 streams that a sandbox may have open in one connection.
pub const STREAMS: u32 = 128;
/// Steps of what runs on the streams of one HTTP/2 connection, before it lets others have their turn.
pub const STREAM_STEPS: usize = 16;
/// Idle time after which a keep-alive connection of the sandbox is closed.
pub const KEEP_ALIVE: Duration = Duration::from_secs(300);
/// How long an upstream connection is kept for the sandbox's next request to the same origin.
pub const UPSTREAM_IDLE: Duration = Duration::from_secs(15);
/// Unused upstream connections that one sandbox keeps for one origin, on each thread that carries flows.
pub const UPSTREAM_KEPT_EACH: usize = 64;
/// Unused upstream connections that one sandbox keeps for all its origins together, on each such thread.
pub const UPSTREAM_KEPT: usize = 256;
/// Streams on one HTTP/2 connection to an upstream, before another connection is opened. Servers are asked to allow no
/// fewer (RFC 9113 §6.5.2).
pub const UPSTREAM_STREAMS: usize = 100;
/// Connections on which one request is tried, where an upstream leaves it aside or is gone.
pub const UPSTREAM_TRIES: usize = 3;
/// From first resolving a name to a connection, over all its addresses.
pub const DIAL_TIME: Duration = Duration::from_secs(15);
/// How long one address may be tried alone before the next starts (RFC 8305 §5).
pub const DIAL_STAGGER: Duration = Duration::from_millis(250);
/// Bytes of the head with which the operator's proxy answers.
pub const PROXY_HEAD_BYTES: usize = 16 * 1024;
/// Sets of credentials for which one sandbox keeps TLS sessions of its upstreams, to be resumed.
pub const TLS_IDENTITIES: usize = 16;
/// Upstreams of one such set for which sessions are kept.
pub const TLS_UPSTREAMS: usize = 64;
/// From the upstream connection to the end of its TLS handshake.
pub const UPSTREAM_HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Silence of an upstream after which the kernel asks whether it is still there, and between asking again.
pub const UPSTREAM_PROBE: Duration = Duration::from_secs(60);
/// Flows that one sandbox may have open, whatever its control plane says.
pub const FLOWS: usize = 16 * 1024;
/// Bytes a second, each way, that a sandbox must be left at least: less would not carry what protocols need to begin.
pub const PACE_LEAST: u64 = 1024;
/// Bytes that pass at once where bytes are bounded: at least so many, at most so many.
pub const PACE_STEP: std::ops::RangeInclusive<u64> = 1024..=64 * 1024;
/// Leaves kept for one root.
pub const LEAVES: u64 = 1024;
/// Leaves that one sandbox may have minted at once, before the rate applies.
pub const MINT_BURST: u32 = 200;
/// Leaves a second that one sandbox may have minted beyond the burst.
pub const MINT_RATE: u32 = 10;
/// Bytes of a UDP DNS message that we send without EDNS (RFC 1035 §4.2.1).
pub const DNS_UDP_BYTES: usize = 512;
/// The EDNS payload size that we offer and honour (RFC 6891 §6.2.5; DNS flag day 2020).
pub const DNS_EDNS_BYTES: usize = 1232;
/// DNS questions of one sandbox that may be in work at once.
pub const DNS_INFLIGHT: usize = 256;
/// DNS cache misses that one sandbox may have at once, before the rate applies (POLICY §5).
pub const DNS_BURST: u32 = 100;
/// DNS cache misses a minute beyond the burst (POLICY §5).
pub const DNS_PER_MINUTE: u32 = 20;
/// How long the host's resolver may take for one question: clients that wait five seconds hear of a failure.
pub const DNS_TIME: Duration = Duration::from_secs(4);
/// How long a DNS answer is kept at least, whatever its TTL says.
pub const DNS_TTL_FLOOR: Duration = Duration::from_secs(10);
/// How long a DNS answer is kept at most.
pub const DNS_TTL_CEILING: Duration = Duration::from_secs(3600);
/// How long it is kept at most that a name, or a type of it, does not exist (RFC 2308 §5).
pub const DNS_NEGATIVE_TTL: Duration = Duration::from_secs(60);
/// How long a dial that has IPv4 addresses waits for IPv6 ones (RFC 8305 §3).
pub const DNS_FAMILY_DELAY: Duration = Duration::from_millis(50);
/// DNS answers kept for the host.
pub const DNS_CACHE: u64 = 16 * 1024;
/// How long a body whose client awaits a 100 waits for its origin's.
pub const CONTINUE_WAIT: Duration = Duration::from_secs(1);
/// Interim answers that are passed on for one request.
pub const INTERIMS: usize = 16;
/// Bytes of the largest UDP datagram over IPv4.
pub const UDP_BYTES: usize = 65_507;
/// UDP flows that one sandbox may have open.
pub const UDP_FLOWS: usize = 1024;
/// Idle time after which a UDP flow that nobody has answered ends.
pub const UDP_UNANSWERED: Duration = Duration::from_secs(30);
/// Idle time after which a UDP flow ends (RFC 4787 §4.3).
pub const UDP_IDLE: Duration = Duration::from_secs(120);
/// Idle time after which a UDP flow ends once nothing more is taken.
pub const UDP_LAST: Duration = Duration::from_secs(5);
/// Datagrams of one sandbox that are refused in a second, before its datagrams wait for the next.
pub const UDP_REFUSALS: u32 = 1000;
/// Refused UDP flows of one sandbox that are remembered, so that each is recorded once.
pub const UDP_REFUSED: usize = 1024;
/// Names pinned to one address, and addresses pinned, in one sandbox.
pub const PINS: usize = 16 * 1024;
/// Idle time after which a connection over which DNS is asked is closed (RFC 7766 §6.2.3).
pub const DNS_TCP_IDLE: Duration = Duration::from_secs(10);
/// Names of one sandbox for which an address stands that the host serves on its loopback (POLICY §5).
pub const STAND_INS: u8 = 254;
/// Bytes moved at once by a relay.
pub const RELAY_BYTES: usize = 64 * 1024;
/// Bytes that a relay moves each way, at most, before it lets others have their turn; it may be one read more.
pub const RELAY_TURN: u64 = 256 * 1024;
/// Bytes of a TLS connection that are taken, at most, before others have their turn; it may be one read more.
pub const TLS_TURN: usize = 128 * 1024;
/// Bytes of an HTTP/2 connection that are read, and as many that are written, at most, before others have their turn.
pub const STREAMS_TURN: usize = 256 * 1024;
/// Bytes of an answer that are unpacked to be searched, at most, before others have their turn; it may be one step
/// more.
pub const UNPACK_TURN: usize = 256 * 1024;
/// Audit events that may wait to be written, before recording waits.
pub const AUDIT_QUEUE: usize = 4096;
/// Rows of each half of the summary that `run` prints.
pub const SUMMARY_ROWS: usize = 40;
/// Warnings about a policy that `run` tells in full.
pub const RUN_ADVICE: usize = 5;
/// Addresses that the sandbox behind one device may use.
pub const DEVICE_ADDRESSES: usize = 16;
/// TAPs that one network namespace may hold.
pub const TAPS: usize = 8;
/// How often it is looked whether the path of an attached network namespace still leads to it.
pub const ATTACHMENT_CHECK: Duration = Duration::from_secs(2);
/// How long a push waits for the flows that were open before it (POLICY §8).
pub const SETTLE_TIME: Duration = Duration::from_secs(1);
/// Sandboxes of one daemon.
pub const SANDBOXES: usize = 16 * 1024;
/// Connections that one listener of the control API has open; more wait to be accepted.
pub const CONTROL_CONNECTIONS: usize = 256;
/// From the accept of a connection of the control API to the end of its TLS handshake.
pub const CONTROL_HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// From the accept, or the last answer, to the end of the next request's head on a connection of the control API.
pub const CONTROL_HEAD_TIME: Duration = Duration::from_secs(30);
/// Bytes of the head of a request to the control API.
pub const CONTROL_HEAD_BYTES: usize = 32 * 1024;
/// Sandboxes that are being told at once that the control API's socket does not answer them; more are told nothing.
pub const CONTROL_REFUSALS: usize = 16;
/// Characters that a token of the control API has at least: fewer can be guessed.
pub const TOKEN_LEAST: usize = 16;
/// Bytes of a file that holds a token, a key or certificates of the control API.
pub const CREDENTIAL_BYTES: usize = 256 * 1024;
/// How long `exeat ctl` waits for the answer of a daemon.
pub const CTL_TIME: Duration = Duration::from_secs(60);
/// Bytes of an answer that `exeat ctl` reads.
pub const CTL_BYTES: usize = 64 * 1024 * 1024;
/// Files of the audit record that may be kept beside the one that is written.
pub const AUDIT_FILES: u32 = 1000;
/// Sessions of one sandbox that are known after they have ended.
pub const FORMER_SESSIONS: usize = 16;
/// The largest whole number that every reader of JSON takes as it is (RFC 8259 §6).
pub const JSON_INTEGER: u64 = (1 << 53) - 1;
/// Sandboxes or sessions on one page of a list.
pub const PAGE: usize = 1000;
/// Bytes of a file of settings.
pub const CONFIG_BYTES: usize = 64 * 1024;
/// Bytes that a control plane may say of a sandbox beside its policy.
pub const DRAFT_BYTES: usize = 64 * 1024;
/// Bytes of one policy document.
pub const POLICY_BYTES: usize = 16 * 1024 * 1024;
/// Secrets whose values are set over the control API.
pub const INLINE_SECRETS: usize = 1_000;
/// Bytes of one request's body to the control API.
pub const BODY_BYTES: usize = POLICY_BYTES + DRAFT_BYTES;
/// Bytes that one regular expression, or glob, may compile to.
pub const REGEX_BYTES: usize = 1024 * 1024;
/// Bytes of the text of one regular expression, or glob: more could hardly compile to less than [`REGEX_BYTES`].
pub const REGEX_TEXT_BYTES: usize = 16 * 1024;
/// Groups `{…}` of one glob, side by side or in one another.
pub const GLOB_GROUPS: usize = 32;
/// Bytes of one secret.
pub const SECRET_BYTES: usize = 64 * 1024;
/// How long a token of a `forwardURL` is valid (POLICY §6).
pub const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// How long one key signs those tokens; its successor is published as long before.
pub const ISSUER_KEY_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How often it is looked whether a key's time has come.
pub const ISSUER_CHECK: Duration = Duration::from_secs(60);
/// Bytes of the body of a `response` rule.
pub const RESPONSE_BODY_BYTES: usize = 64 * 1024;
/// How often it is looked whether a file that holds a secret has changed.
pub const SECRET_CHECK: Duration = Duration::from_secs(1);
/// How long a command or a service that gives a secret may take.
pub const SECRET_TIME: Duration = Duration::from_secs(30);
/// How often a source is asked again that does not say how long its secret is good.
pub const SECRET_REFRESH: Duration = Duration::from_secs(300);
/// How long what a source gave is good at most, whatever it says.
pub const SECRET_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Between asking again a source that failed: at first, and at most; up to a half less, by chance.
pub const SECRET_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Random characters of a placeholder, at least: nobody meets one by chance.
pub const PLACEHOLDER_RANDOM: usize = 16;
/// Random characters of a placeholder of which neither length nor value is known.
pub const PLACEHOLDER_USUAL: usize = 36;
/// Characters of what a placeholder begins with.
pub const PLACEHOLDER_PREFIX: usize = 64;
/// Characters of a placeholder.
pub const PLACEHOLDER_BYTES: usize = 1024;
/// Placeholders that are replaced in one query, or in one body.
pub const PLACEHOLDER_TIMES: usize = 64;
/// Bytes of a body in which placeholders are replaced, at most, that waits as a whole, so that its length can be told.
pub const REPLACED_BYTES: usize = 1024 * 1024;
/// Bytes that are read of what a service answers that is asked for a secret.
pub const SECRET_ANSWER_BYTES: usize = 1024 * 1024;
/// How long before and after now the token lasts that a GitHub App signs about itself, which is ten minutes at most.
pub const GITHUB_TOKEN_TIMES: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(540));
/// Words of a command that gives a secret.
pub const SECRET_WORDS: usize = 64;
/// Bytes that a secret has at least for its echoes to be searched for: shorter ones stand in any text.
pub const SCRUB_SHORTEST: usize = 6;
/// Bytes that wait where a signature stands before what it is over: of a body, or of one piece of it.
pub const SIGNED_BYTES: usize = 1024 * 1024;
/// Steps of a secret (its bytes, or the characters of its encoding) that may pass before it is clear whether the rest
/// follows.
pub const SCRUB_UNHELD: usize = 3;
/// Bytes of an answer that are decoded at once.
pub const DECODED_BYTES: usize = 32 * 1024;
/// Of the window that a Zstandard decoder keeps of what it gave, the logarithm to the base of two: 8 MiB, the most that
/// RFC 9659 lets a server use. A decoder reserves what its frame asks for, and touches only as much as it has given.
pub const ZSTD_WINDOW_LOG: u32 = 23;
/// Scalars, lists and maps in one policy document.
pub const POLICY_NODES: usize = 1024 * 1024;
/// Lists and maps inside one another in a policy document.
pub const POLICY_DEPTH: usize = 32;
/// Files of one policy: itself and all that it extends.
pub const POLICY_FILES: usize = 32;
/// Domain patterns and ranges of one policy, all lists together.
pub const POLICY_ENTRIES: usize = 128 * 1024;
/// Arrangements of `*` in the domain patterns of one list, those with a `*` at the left end alone not counted: how
/// many labels, and which of them are `*`. A name is looked up once for each.
pub const POLICY_ARRANGEMENTS: usize = 64;
/// Rules of one policy, over all its entries.
pub const POLICY_RULES: usize = 64 * 1024;
/// Regular expressions and globs of one policy.
pub const POLICY_REGEXES: usize = 256;
/// Comparisons of two rules of an entry, roughly, in search of one that the other leaves nothing; beyond, the search
/// ends.
pub const ADVICE_STEPS: usize = 1024 * 1024;
/// Faults that one run of the compiler keeps; what is beyond is counted.
pub const POLICY_FAULTS: usize = 100;
/// Documents that a verb about policies takes from one folder and those inside it.
pub const FOLDER_FILES: usize = 16 * 1024;
/// Changes between two policies that are told, of each direction; what is beyond is counted.
pub const DIFF_CHANGES: usize = 200;
/// What comparing two policies may cost beyond one look at each pattern, range and rule: pairs of patterns that have
/// names in common, and rules that a request is tried on.
pub const DIFF_STEPS: usize = 20_000_000;
/// Bytes of one message between two processes of exeat's: a policy, as JSON; or an environment and a list of paths.
pub const MESSAGE_BYTES: usize = 64 * 1024 * 1024;
/// Messages of another process that wait to be heeded, before its next is read.
pub const TAKE_OVER_QUEUE: usize = 256;
/// How long either waits for what the other says next, while a daemon hands over: all attachments are taken up
/// meanwhile.
pub const TAKE_OVER_TIME: Duration = Duration::from_secs(120);
/// The same while nobody takes flows.
pub const TAKE_OVER_REST: Duration = Duration::from_secs(10);
/// How long a daemon that starts waits for another's last descriptors to be closed.
pub const LEFT_OPEN_TIME: Duration = Duration::from_secs(5);
/// How long it rests before it looks again.
pub const LEFT_OPEN_REST: Duration = Duration::from_millis(20);
/// How long flows go on in a daemon that has handed over.
pub const OUTLIVING_TIME: Duration = Duration::from_secs(24 * 3600);
