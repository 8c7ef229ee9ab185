//! The manual for whoever changes exeat: what is promised against whom, how a connection travels, why it is built
//! this way, and which test holds each clause of the policy page and pins each attack that is known. It holds no code.
//!
//! The user's side is in the README; the policy language explains itself in [`crate::policy`].

/// Who is trusted with what, and where the promises end.
///
/// **The adversary** is the program inside: hostile, patient, as skilled as its user, free to run any binary and to
/// speak any protocol. It chooses every byte that it sends and every address that it dials. It may control origins and
/// name servers on the Internet; it does not control origins that the policy allows, beyond what their interfaces let
/// any client do.
///
/// **Trusted** are the kernel, this program with its dependencies, the author of the policy, the host's resolver (for
/// the addresses of names that the policy allows, which are judged all the same), and, for what is sent to them, the
/// origins that the policy allows.
///
/// **What is protected:**
///
/// | asset | against | by |
/// |---|---|---|
/// | everything that the host can reach | being reached without a verdict that allows it | a network namespace without a way out; [`crate::intercept`] |
/// | private networks, metadata services, the host itself | names that lead there, addresses in disguise | vetting at the dial, [`crate::policy::Policy::vet`] |
/// | secrets that the policy names | being read inside, or sent where no rule sends them | [`crate::secret`], [`crate::confine`] |
/// | credentials that lie about on the disk | being read by accident or design | masks, [`crate::confine`] |
/// | the user's other programs | being asked, over sockets, terminal, keyring or trace, to act outside | [`crate::confine`] |
/// | the truth of the record | a denial that leaves no trace, a trace that holds a secret | [`crate::audit`] |
///
/// **Residual risks**, each also told in the README:
///
/// - The disk is not confined: what the program writes may be run outside later.
/// - What is allowed is allowed: data leaves in requests to allowed origins, and, within a budget, in names.
/// - Fronting on spliced flows: without `strict` only the outer name is seen.
/// - Unix sockets that are bound after the start, or renamed or hard-linked before it.
/// - A masked file that is replaced outside (another renamed over it) while the sandbox runs is seen inside: the kernel
///   drops the mask with the file that it lay on. Masked directories are not concerned.
/// - An origin may echo the credential that it was sent. Echoes are struck out of its answers in every form that
///   [`crate::secret::scrub`] lists; one that transforms what it echoes in another way, or that tells a few letters at
///   a time, is not seen through.
/// - Where a secret stays, memory is locked. Copies in passing, most of them in libraries, are not: they may be swapped
///   out, and linger until their memory is used again. [`crate::secret`] lists them. Who cannot have that encrypts the
///   swap, or has none.
/// - A service may give out keys for what is signed with one (AWS's STS, S3 Express sessions), and what it answers is
///   the program's. The id of a key and a session token are sent, and may be answered: without the key, which never
///   goes out, they are worth nothing, and answers are not searched for them.
/// - Where a rule has placeholders replaced in the query or the body, a service may store the value as it stores what
///   else stands there, log it, and show it to others than this sandbox, whose answers alone are searched; or read it
///   in a way that is told within the body (a charset of a part, base64 in JSON), and show what it read.
/// - A placeholder is not seen in a compressed body (unless a rule has it read: then it is refused), behind a switch of
///   protocols (WebSocket), in TLS that is relayed unread, in names asked of DNS, or cut in pieces: there it goes out
///   as it is, and is worth nothing.
/// - An interface on the host is confined by rules of the host's nftables. Whoever may change these may open it: a
///   table that is taken away is made again at once, and told, but not by a daemon that is not running.
/// - The daemon's Unix socket is a file. Whoever is in the network namespace of an attached sandbox is not let in by
///   it; a container behind an interface of the host, whose own namespace the daemon does not know, must not see its
///   path.
/// - One kernel is shared; timing and volume of allowed traffic speak.
pub mod threat_model {}

/// One connection, from `connect` in the sandbox to its record.
///
/// 1. *Arrival.* Every address is local in the sandbox's network namespace; an nftables rule hands each TCP connection
///    to a listener in that namespace, which `getsockname` tells the original destination ([`crate::attach`]). Which
///    sandbox this is, is which listener accepted; nothing that the sandbox sends has a say in it.
/// 2. *By address.* Rows 0 to 4 of the judgement need no byte: a denied CIDR, a protected range, a policy that allows
///    nothing, an allowed CIDR.
/// 3. *Peek.* Otherwise the first bytes are read, within bounds of size and time, and kept: a ClientHello over however
///    many records and segments, an HTTP request line, the HTTP/2 preface, or neither. What is doubtful is refused,
///    not guessed. PostgreSQL asks for TLS in eight bytes of its own: they are answered here, unless the flow would be
///    relayed as it is, and asked again upstream ([`crate::intercept::postgres`]); Kerberos is refused, and so is
///    cleartext, such as a cancel request of a client older than PostgreSQL 17.
/// 4. *Decide.* [`crate::policy::Policy::decide`] gives exactly one verdict, with reason and rule.
/// 5. *Splice*: the name's own addresses are resolved on the host, each is vetted at the moment of dialling, and bytes
///    are relayed unread. *Terminate*: TLS ends here with a leaf for that one name; each request then earns its own
///    permit, placeholders of secrets are found ([`crate::policy::placeholder`]), secrets are put into headers last
///    (where a rule says so, into the query and, as it streams, the body: [`crate::secret::replace`]), and only an
///    upstream whose certificate was verified receives it. What such an origin answers is searched for what it was
///    sent, and that is struck out ([`crate::secret::scrub`]). Where a rule signs, what the client signed is
///    verified before anybody is contacted, and the signature made when nothing changes any more
///    ([`crate::secret::sign`], [`crate::intercept`]`::http::sign`).
///
///    What HTTP says before its answer (1xx) passes, over either version and from one to the other: the body of a
///    request with `Expect: 100-continue` waits for its origin's word ([`crate::intercept`]`::http::interim`), and
///    hints come before the answer, a bounded number, searched as the answer is. A stream does not switch protocols by
///    a 101 (RFC 9113 §8.6): such an answer is none. HTTP/1 is a library's messages, behind a guard of ours
///    ([`crate::intercept`]`::http::guard`); HTTP/2 a library's frames, of which we make the messages
///    ([`crate::intercept`]`::http::streams`).
///
///    An HTTP/2 client's origin is offered both versions and chooses; an HTTP/1 client's is offered HTTP/1.1, and
///    HTTP/2 where it refuses that as TLS begins (RFC 7301 §3.2). In clear an origin is asked as its client asks.
///
///    A WebSocket is asked for by `GET` over HTTP/1.1, or by `CONNECT` on a stream of HTTP/2 (RFC 8441), which is
///    judged, recorded and sent on as that `GET` over HTTP/1.1. An origin that refuses HTTP/1.1 is asked by `CONNECT`
///    on a stream, if its settings say that it takes WebSockets so; otherwise it is asked for none, and the sandbox
///    told why. In clear one is asked so for a client that asks so, or, where that is of no use, over HTTP/1.1. Frames
///    pass unread, but for secrets that come back.
/// 6. *Record.* One event for the verdict, one for the end.
///
/// A sandbox may be bounded by its control plane ([`crate::sandbox::quota`]): a flow too many is reset at once, a
/// request too many is answered with 429, and bytes wait. All flows of a sandbox wait in one line for each direction,
/// and nobody else waits in it.
///
/// Other UDP is judged by its address alone, the first datagram of each flow, and relayed by a socket of its own
/// ([`crate::intercept::udp`]); what is refused is answered with `port unreachable`, so that QUIC clients fall back. A
/// datagram in pieces is nobody's: at an interface, one that is larger than the interface's MTU is lost, either way.
///
/// A DNS question goes a shorter way: name judged first, asked of the host's resolver if allowed, addresses vetted,
/// and pinned to the name in this sandbox.
pub mod data_path {}

/// Why it is built this way: the choice, what else was possible, and what it costs.
///
/// **A sandbox is a listener.** The daemon's listening sockets stand inside the sandbox's network namespace, its
/// outbound sockets in the host's. Identity by source address, header or token can be forged by whoever shares the
/// wire; this cannot. When exeat is gone or the rules are flushed, the namespace still has no interface that leads
/// out, so it fails closed by nature. It costs a thread that enters the namespace once, at the start.
///
/// **An interface on the host is guarded by rules that outlive us.** There TPROXY fails open: a packet that no listener
/// takes goes on its way. So each hook that it could pass has a drop of its own, in tables that belong to no process,
/// made before the device is raised and taken away only after it is down or gone. What a device may claim to be is
/// judged at its ingress, before anything that two sandboxes share (fragments, neighbours, connection tracking), so
/// that two guests from one snapshot may have the same addresses and ports. The price: a device must be down to be
/// attached.
///
/// **TPROXY, not a proxy variable, not a userspace stack.** Programs ignore proxy variables; a userspace TCP stack is
/// a large parser for hostile bytes and slower by a copy. TPROXY works without privilege inside a user namespace. It
/// costs nftables support in the kernel.
///
/// **Names are dialled, not addresses.** A permit by name never leads to the address that the sandbox dialled, only to
/// what we resolved and vetted. This removes the whole family of "right name, wrong address" at the price of sometimes
/// choosing another server of the same name than the client did.
///
/// **No sandbox commands the daemon.** Over TCP its API takes TLS and a token or a certificate, and settings that would
/// open its own address to sandboxes are refused. A Unix socket is a file, which a network namespace does not hide: so
/// of each connection the kernel is asked in which namespace its other end was made, and the namespace of an attached
/// sandbox is answered with a refusal, whoever it is. What this costs: a control plane cannot be run inside a sandbox.
///
/// **An alias is not followed.** A resolver that recurses tells the whole chain, and its addresses are judged. Where
/// one answers with an alias alone, the sandbox is told that there is no data: what the alias stands for may be a
/// denied name, and to ask for it is to let the alias's owner choose what leaves the host. Judging each step would make
/// one cache for each policy. The price: a name that a resolver was told as an alias, and does not follow itself, has
/// no address, as it has none for a C library.
///
/// **Terminate only where a rule needs it.** What needs no judgement of requests is relayed unread: fewer programs meet
/// a certificate that they do not expect, and fewer secrets pass through us. The price is fronting on such flows, which
/// `strict` refuses to pay.
///
/// **Permission is a value.** `upstream` dials nothing but a [`crate::policy::verdict::DialAddr`], which only the
/// policy makes. A forgotten check does not compile; `tests/tidy.rs` holds the rest.
///
/// **The root lives in memory.** Made for one run, never written. No other run's sandbox can be deceived with it, and
/// nobody has to install anything. The price: a trust bundle is mounted over the system's, and programs with trust
/// stores of their own do not see it.
///
/// **A proxy of the operator's is asked for addresses.** If it resolved names, nobody would judge where they lead. So
/// names stay here, and it is asked for what was vetted; its own addresses are protected ones, for whoever reached it
/// could ask for anything. What it cannot carry (UDP) goes nowhere. The price: a proxy that allows by name alone allows
/// nothing.
///
/// **Seccomp is a short list of refusals**, not a list of what is allowed. It takes away ways out that a network
/// namespace leaves open, and breaks nothing else; it is not the wall between the program and the kernel.
pub mod decisions {}

/// What a byte, a request and a connection cost, where the time goes, and what was tried.
///
/// `cargo bench --bench peers` measures it beside other proxies, `cargo bench --bench idle` what an idle connection
/// holds. CPU time is compared within one run only: a machine that others use, too, doubles it for everybody.
///
/// - *A new connection* costs its TLS handshakes before all else: a client's has two signatures to verify, a server's
///   one to make. So upstream connections are shared by all flows of a sandbox (`intercept::http::upstreams`): an
///   intercepted connection then costs the sandbox's handshake alone, and what the origin saves comes on top. Where a
///   new one is needed, its TLS session is resumed; configurations are ready-made, on both sides.
/// - *A kept connection* may carry state: so what is shared is bounded by sandbox, generation of the policy, scheme,
///   version, target and credentials, its address is vetted again before each use, and only a whole exchange gives it
///   back. A push closes the idle ones of older generations before it returns.
/// - *A flow stays on one thread* (`intercept::workers`). One scheduler for all threads moved its tasks between them,
///   and a sixth of each request's time was what that costs. So every thread keeps upstream connections of its own.
/// - *A greedy sandbox* has no more of a thread's time than a modest one (`intercept::workers::lane`). A runtime by
///   itself goes round its tasks, and looks for what has come after 61 of them, so a sandbox with many flows, or with
///   bulk, made its neighbours wait for all of it. One turn for each sandbox is no cure: those of bulk are long, and a
///   request takes several. It is time that is shared, and long steps are paid for; and steps are short.
/// - *A request* in a kept connection makes four system calls, two for each side, and none can go; half of its time is
///   the kernel's and the TLS library's. The rest is many small things. What helped: a body is one type and no boxes in
///   boxes; one atomic tells of revocation and no channel; the future that dials is not made where a connection is
///   ready; who waits for a push is told of the oldest generation only when it changes; the timer of a head is set
///   anew only when it is ready, not for every head. The program's allocator is mimalloc, for a fifth of a request was
///   the C library's own; on a loaded machine that had been lost in noise.
/// - *HTTP/2* has one task for each connection (`http::streams`), which runs all that its streams need: what arrives
///   together goes on together, and no thread is woken for it. The library writes each frame with data by itself, a TLS
///   record and a system call for each answer; what one step writes is gathered (`http::gather`), for a sixth of a
///   request.
/// - *An idle connection* holds what the HTTP library holds, 8 KiB to read into and 8 KiB to write from. So that one of
///   HTTP/1 holds neither, the library's connection is dropped when every request has been answered for a moment, and
///   made again when the next head is there: the guard below it keeps the socket (`http::guard`). That is also why an
///   idle one has no timer of the library's.
/// - *Searching answers for secrets*, where a rule sends one, is a hundredth of a short request's time. In bulk it was
///   two fifths of all, with one look at a table for two bytes; vector instructions look at sixty-four places at once
///   (`sys::sift`), where the processor has them.
/// - *What led to a judgement* is not held while the flow goes on: futures within futures are polled from the outermost
///   at each step, and are memory of every idle connection.
/// - *The build* matters as much as the code: without optimisation over crates (`lto`, one unit of code) a request
///   costs a third more.
/// - *Bulk* that is spliced is bound by wake-ups for each TLS record, not by copies. Where it is opened, the TLS
///   library reads 4 KiB at a time and gives out one record: `intercept::records` reads what there is below it, and
///   gives out all that has come above it. On a processor of AMD's under Debian 12 nearly a quarter of it was one copy
///   of the TLS library's, by an instruction that is slow where source and target lie a few bytes apart in their pages
///   (`rep movsb`; glibc bug 30994, mended in 2.39): the daemon's unit has the C library take another way.
pub mod costs {}

/// What a daemon keeps over its end, and how another goes on.
///
/// **After a crash** ([`crate::state`], `cli::serve::daemon`). A change is stored before it is in force, and in force
/// before its caller is answered, so what was acknowledged is found again; of one that was not, all or nothing. Each
/// attachment is taken up only if its identity (boot, namespace, interface) is the stored one; rules that were left
/// behind, or the want of a way out, hold everything back until its listener stands again with the stored policy. What
/// is lost: open flows, and bytes of a session since its last change.
///
/// **After a reboot** identities are given out anew, so nothing is the same: every sandbox is registered, with its
/// policy, detached, until the control plane attaches it.
///
/// **The store** is one file, sealed record by record with AES-256-GCM, bound to name and version. The key is
/// `exeat.key` among the service manager's credentials, or the file `key` beside the store, which only its owner may
/// read. A store of another version, another key, another program, or one that is damaged is refused, and its file is
/// not written to. An older exeat refuses the store of a newer one: go back by a copy that was made before.
///
/// **Taking over** (`cli::serve::take_over`, whose page has the order of words and what each death means). The
/// successor receives every listening socket, the lock of the state directory, pins, stand-ins, tallies and the numbers
/// of the next flows. Of a session nothing begins anew but what only bounds it: leaves that were minted, and what was
/// used of its limits and of its budget for names. Counters of `/metrics` are each process's own. Followers of
/// `/events`, and idle connections to the control API, are closed, and connect again.
///
/// **The process before** stays while it has flows: it follows policies, limits and settings, passes on its part of the
/// audit record, and ends them when it is told to, when its successor is gone, or after
/// [`crate::limits::OUTLIVING_TIME`]. Several may stand one behind another. It knows the placeholders that it had: one
/// that was minted since is any text to it. So it does the values that were set over the API (`cli::serve::broker`):
/// its flows go on with what was set before, until that expires.
///
/// UDP flows are not handed over. What a client says next is judged by the successor as a first datagram, and goes out
/// from another port: who answers questions (DNS, NTP) or lets addresses change (QUIC, WireGuard) notices nothing, and
/// any other protocol begins anew. The one before says nothing more, and passes on what is on its way back until a flow
/// was idle for [`crate::limits::UDP_LAST`].
///
/// **systemd.** `SIGUSR2` has the daemon start its successor from the program that stands at its path; the manager is
/// told `RELOADING=1`, then `MAINPID=`, then `READY=1`, or `READY=1` alone if the successor failed. The unit that
/// `exeat serve --unit` prints was tried under systemd 252: started, both kinds of attachments, reload, kill.
///
/// | promise | test |
/// |---|---|
/// | no connection is refused, no flow counts twice | `under_load_nothing_is_refused_and_nothing_is_lost` |
/// | datagrams of open UDP flows are judged anew; none opens anything | `datagrams_are_judged_anew_by_the_successor` |
/// | whoever is killed at any step, one daemon serves | `a_successor_that_is_killed_at_any_step_leaves_one_daemon`, `a_daemon_that_is_killed_at_any_step_of_handing_over_leaves_its_successor`, `a_successor_that_does_nothing_is_ended_or_ends_and_the_daemon_goes_on` |
/// | the process before follows every change | `the_one_before_follows_every_change_until_it_is_finished`, `flows_that_were_judged_by_other_settings_are_ended` |
/// | pins and quarantines go along | `names_that_were_answered_before_are_known_after`, `what_is_quarantined_stays_so` |
/// | only the same user takes over | `only_the_same_user_is_talked_to` |
/// | every acknowledged policy is in force after `kill -9` | `killed_at_any_moment_every_acknowledged_policy_is_in_force` |
/// | after a reboot nothing is attached | `after_a_reboot_policies_are_there_and_nothing_is_attached` |
/// | placeholders stay | `placeholders_stay_over_pushes_crashes_and_successors` |
/// | secrets that were set over the API come back | `a_secret_that_is_set_over_the_api_is_used_changed_and_forgotten_and_never_shown` |
/// | a store that cannot be used is left as it is | `a_store_that_cannot_be_used_is_left_as_it_is`, `a_store_that_is_not_ours_is_refused_and_left_as_it_is` |
/// | the unit is accepted, and its capabilities are the least | `the_unit_is_one_that_systemd_accepts`, `the_capabilities_of_the_unit_suffice_and_none_is_too_many` |
pub mod restart {}

/// The policy page, clause by clause: what `flow`, `matcher` and `policy` own of it, and the test that holds it.
///
/// The other clauses (what is read from a wire, answered, dialled or recorded) are held by the tests of the
/// modules that do so. `tests/tidy.rs` checks that each test named here exists, and that no section and no row is
/// left out. Beside these, `the_engine_agrees_with_the_oracle_on_100_000_pairs` reads §2, §3, §5 and §8 row by
/// row, without the engine.
///
/// | clause | test |
/// |---|---|
/// | §1 every spelling compiles to the same policy | `every_spelling_compiles_to_the_same_policy`, `an_older_spelling_with_many_domains_and_rules_takes_no_longer_than_its_length` |
/// | §1 YAML or JSON | `json_is_yaml`, `a_document_is_the_same_in_json_however_that_is_laid_out` |
/// | §1 unknown and duplicate keys are errors, also after canonicalisation | `each_fault_of_a_document_is_found`, `what_is_wrong_in_form_fits_neither_the_schema_nor_the_reader` |
/// | §1 equal documents are equal policies; the revision is a hash of the content | `equal_documents_have_equal_revisions_and_others_do_not`, `the_same_document_of_an_author_who_may_open_less_is_another_policy` |
/// | §1 `mode: allow-all` may stand beside lists, `mode: deny-all` stands alone | `the_most_specific_entry_alone_applies`, `what_denies_all_permits_nothing_beside_it` |
/// | §1 every key, and what it means | `every_key_of_the_language_is_in_the_schema_with_words_for_it` |
/// | §1 what only the operator may say | `a_control_plane_says_less_and_opens_what_the_operator_lists` |
/// | §1 `secrets`, `placeholders` | `of_transforms_the_later_element_wins`, `a_secrets_file_is_found_from_the_file_that_names_it`, `each_fault_of_a_document_is_found`, `each_fault_of_a_source_is_found` |
/// | §1 where values of secrets come from, each as its documentation says | `a_command_gives_what_it_prints_with_how_long_that_is_good`, `a_role_logs_in_once_and_its_token_is_renewed_for_as_long_as_it_can_be`, `a_token_that_was_given_is_looked_up_and_renewed_and_changed_where_it_lies`, `a_service_account_logs_in_with_its_token`, `a_client_shows_its_own_secret_as_a_header_or_in_the_body`, `a_refresh_token_that_the_server_gives_counts_until_the_server_refuses_it`, `an_app_signs_about_itself_and_gets_a_token_of_its_installation` |
/// | §1 a source is asked ahead of the end of what it gave, and after a growing time where it fails | `one_that_fails_is_asked_again_after_a_time_that_grows_and_is_left_to_chance`, `a_vault_that_cannot_be_asked_takes_nothing_away_and_one_that_refuses_does`, `secrets_are_listed_with_how_each_is_kept_and_without_a_value` |
/// | §1 `extends` | `what_a_file_extends_adds_to_it_and_the_nearest_counts`, `a_file_counts_before_all_that_it_extends_by_whatever_way` |
/// | §1 `tests` | `each_fault_of_a_test_is_found`, `every_preset_passes_its_cases_and_has_some`, `a_case_that_does_not_hold_says_what_was_expected_and_what_came` |
/// | §1 an empty, an absent and a deny-only policy deny all | `nothing_said_is_deny_all` |
/// | §1 flags add to the file; `--mode` excludes both | `flags_add_to_the_file_and_are_named_as_typed`, `a_mode_on_the_command_line_excludes_the_rest` |
/// | §2 a name is canonical at birth | `a_domain_is_canonical_at_birth`, `what_dns_cannot_hold_is_no_domain`, `parsing_is_idempotent` |
/// | §2 a name is never an IP literal | `an_ip_literal_in_any_notation_is_no_domain` |
/// | §2 what each pattern matches | `a_pattern_matches_as_the_table_of_the_policy_page_says` |
/// | §2 `*` stands for a flow with no name | `the_star_alone_stands_for_no_name`, `no_name_goes_out_only_where_nothing_narrower_is_said` |
/// | §2 `*` is a whole label; no ports, schemes or addresses; with a hint | `what_is_no_pattern_says_what_to_write_instead`, `what_is_no_pattern_is_told_how_to_be_one` |
/// | §2 the most specific pattern applies | `of_two_patterns_the_more_specific_applies`, `specificity_orders_as_the_policy_page_says`, `the_map_agrees_with_a_scan` |
/// | §2 entries are never merged | `the_most_specific_entry_alone_applies`, `the_same_pattern_twice_is_refused_and_the_first_stays` |
/// | §3 every flow gets one verdict, with its reason and its line | `of_two_rows_the_earlier_answers`, `of_two_rows_the_earlier_answers_a_request`, `of_two_rows_the_earlier_answers_a_resolver` |
/// | §3 rows 1–4 stand before a byte is read | `an_address_settles_rows_one_to_four_before_a_byte_is_read`, `what_the_address_settles_stays_settled` |
/// | §3 row 0: the block address | `the_block_address_is_never_allowed` |
/// | §3 row 1: `subnets.deny` | `rows_are_asked_in_order`, `a_request_is_judged_by_its_address_too` |
/// | §3 row 2: protected ranges | `rows_are_asked_in_order`, `no_policy_lets_a_protected_or_block_address_be_dialled` |
/// | §3 row 3: deny-all | `nothing_said_is_deny_all` |
/// | §3 row 4: `subnets.allow` | `rows_are_asked_in_order`, `a_request_is_refused_by_the_first_that_refuses_it` |
/// | §3 row 5: `deny` | `rows_are_asked_in_order` |
/// | §3 row 6: `allow`, allow-all; splice or terminate | `rows_are_asked_in_order`, `allow_all_lets_every_name_and_no_name_out`, `strict_terminates_whatever_goes_by_name` |
/// | §3 row 7: an address pinned to names with an `opaque` rule | `row_7_asks_every_name_that_the_address_is_pinned_to`, `what_an_opaque_rule_relays_is_what_is_opaque`, `ssh_reaches_a_name_with_an_opaque_rule_and_no_other` |
/// | §3 row 8: what has no name | `no_name_goes_out_only_where_nothing_narrower_is_said`, `allow_all_lets_every_name_and_no_name_out` |
/// | §3 row 9: otherwise | `rows_are_asked_in_order` |
/// | §3 vetting: rows 1 and 2 at the moment of dialling, and only the permit's target | `every_address_is_vetted_before_it_is_dialled`, `no_policy_lets_a_protected_or_block_address_be_dialled` |
/// | §3 vetting, where the operator's proxy carries connections | `c34_an_upstream_proxy_opens_no_protected_address`, `what_the_operators_proxy_does_not_carry_goes_nowhere_and_the_reason_is_told` |
/// | §3 embedded IPv4 | `an_embedded_address_is_read_in_every_form`, `the_zeros_that_fill_a_nat64_form_are_not_read_as_an_address`, `allowing_unwraps_mapped_and_compatible_alone` |
/// | §3 zone ids are dropped | `a_zone_id_changes_no_judgement` |
/// | §3 the protected ranges | `the_default_ranges_are_those_of_the_policy_page` |
/// | §3 which entries open them | `a_policy_opens_a_range_only_by_an_entry_wholly_inside_an_openable_one`, `a_control_plane_says_less_and_opens_what_the_operator_lists`, `a_range_that_stays_closed_is_told` |
/// | §3 what only the operator opens | `the_operator_opens_anything` |
/// | §3 `check` warns of a `deny` that is advisory, and of what row 4 bypasses | `a_deny_is_told_that_fronting_gets_round`, `what_an_address_bypasses_is_told` |
/// | §3 `match`: dimensions, lists, case | `dimensions_are_anded_and_methods_ored`, `one_pair_must_satisfy_key_and_value_together`, `a_query_is_decoded_once_as_forms_are` |
/// | §3 matchers: `regex` is linear and unanchored, `glob` keeps to segments | `expressions_are_unanchored_linear_and_bounded`, `a_glob_is_read_as_its_table_says`, `two_stars_that_would_not_cross_are_refused` |
/// | §3 the first rule whose match holds claims the request; what no rule claims goes on | `the_first_rule_that_matches_claims_the_request`, `of_two_rules_the_first_claims_whatever_they_do` |
/// | §3 `transform`: merging, names that may not be set, `host` | `of_transforms_the_later_element_wins`, `each_fault_of_a_transform_is_found` |
/// | §3 `response` | `each_fault_of_a_response_or_match_is_found`, `the_first_rule_that_matches_claims_the_request` |
/// | §3 `opaque`: skipped in matching, alone in its rule, never 80 and 443 | `of_two_rules_the_first_claims_whatever_they_do`, `what_an_opaque_rule_relays_is_what_is_opaque`, `each_fault_of_a_response_or_match_is_found` |
/// | §3 `transform` with `forwardURL` | `each_fault_of_a_response_or_match_is_found`, `a_control_plane_says_less_and_opens_what_the_operator_lists` |
/// | §3 a path is judged as sent and fully decoded | `a_path_whose_readings_meet_different_rules_is_refused`, `a_path_is_decoded_to_the_most_it_may_mean`, `decoding_reaches_the_fixed_point_of_repeated_passes` |
/// | §3 `${secrets.NAME}` is legal in `transform` values alone | `each_fault_of_a_transform_is_found`, `each_fault_of_a_response_or_match_is_found` |
/// | §3 `transform` and `forwardURL` in clear | `a_transform_in_clear_is_refused_and_nothing_else_is`, `a_request_is_refused_by_the_first_that_refuses_it` |
/// | §3 a secret goes to port 443, or to those of its grant | `a_secret_goes_to_port_443_alone`, `a_secret_goes_to_the_ports_of_its_grant_alone` |
/// | §3 `basic`, base64, `existing` | `what_is_to_be_encoded_is_encoded_with_its_secret_in_place`, `each_fault_of_basic_and_of_an_encoding_is_found`, `a_header_gives_way_to_the_sandboxes_own_only_where_the_rule_says_so` |
/// | §3 a secret goes along with requests of its `methods` and `paths` alone | `a_secret_goes_along_with_the_requests_of_its_grant_alone`, `a_placeholder_anywhere_else_is_refused` |
/// | §3 a placeholder is replaced in the headers of its secret, on the way to where that may go; elsewhere it is refused | `a_placeholder_is_replaced_where_its_secret_may_go`, `a_placeholder_anywhere_else_is_refused`, `of_a_header_that_a_rule_sets_nothing_is_sent_that_the_sandbox_wrote` |
/// | §3 `placeholders`: a rule has them replaced in the query and the body | `where_a_rule_says_so_a_placeholder_is_replaced_in_the_query_of_what_its_secret_may_go_along_with`, `a_rule_that_replaces_placeholders_is_for_names_that_a_secret_with_one_may_go_to`, `a_value_is_written_as_the_body_writes_what_stands_in_it`, `of_a_multipart_body_only_what_parts_hold_is_replaced`, `behind_what_would_be_read_together_with_its_beginning_nothing_is_replaced`, `a_value_that_what_follows_would_change_is_not_written`, `of_a_multipart_body_nothing_is_replaced_that_may_be_read_in_another_way`, `a_query_gets_the_value_escaped_and_neither_the_answer_nor_the_record_has_it`, `a_body_that_waits_gets_the_value_as_its_type_writes_it_and_its_length`, `a_body_that_streams_says_no_length_and_is_replaced_wherever_it_is_cut` |
/// | §3 a name that a placeholder may go to is terminated | `a_name_that_a_placeholder_may_go_to_is_terminated` |
/// | §3 what a placeholder looks like, and how long it stays | `a_placeholder_has_the_shape_of_its_value_and_nothing_else_of_it`, `where_a_shape_is_given_the_value_is_not_looked_at`, `what_was_minted_stays_and_stands_in_every_variable_of_its_secret`, `each_fault_of_a_secret_that_has_a_placeholder_is_found` |
/// | §3 models' SDKs with placeholders alone, in answers and streams, while the key is rotated | `models_sdks_answer_and_stream_with_placeholders_alone`, `a_models_key_that_is_rotated_meanwhile_fails_no_request` |
/// | §3 a rule that would send a secret elsewhere than its grant says does not compile | `a_secret_goes_to_the_names_of_its_grant_alone`, `a_control_plane_sends_the_operators_secret_where_the_operator_says` |
/// | §3 `sign`: where it may, and what is wrong with it | `a_rule_signs_where_its_secrets_may_go_and_sends_none`, `each_fault_of_a_signing_is_found`, `a_placeholder_that_signs_is_left_to_the_signature_and_replaced_nowhere` |
/// | §3 `sign`: AWS's signatures, as AWS publishes them | `signatures_are_those_of_the_published_suite`, `signatures_are_those_of_the_pages_of_s3`, `pieces_are_signed_as_on_the_pages_of_s3`, `a_url_keeps_its_order_and_gets_the_token` |
/// | §3 `sign`: what is signed again, and what is not | `whatever_was_signed_with_the_placeholder_is_signed_with_the_key`, `what_is_not_signed_with_the_placeholder_is_refused`, `what_cannot_be_read_is_refused`, `what_the_rule_does_not_sign_is_refused_or_passes`, `a_key_that_cannot_be_had_signs_nothing`, `a_body_is_signed_again_however_it_arrives`, `a_body_with_another_byte_anywhere_is_refused` |
/// | §3 `sign`: AWS's clients, against a server that verifies | `aws_clients_do_what_they_do_with_placeholders_alone`, `a_key_that_is_rotated_meanwhile_fails_no_request`, `a_server_that_verifies_refuses_another_key` |
/// | §3 `sign`: an HMAC | `codes_are_those_of_the_standard`, `the_text_is_made_of_the_parts_as_they_are_sent` |
/// | §4 TLS and HTTP are judged by name on any port; what is neither is denied on 80 and 443 | `rows_are_asked_in_order`, `what_an_opaque_rule_relays_is_what_is_opaque` |
/// | §4 other UDP | `udp_is_relayed_to_an_allowed_address_and_no_other`, `allow_all_relays_udp_where_no_name_is_denied`, `an_idle_udp_flow_ends`, `a_sandbox_has_so_many_udp_flows_and_no_more`, `refusing_is_bounded`, `who_does_not_listen_is_told_of`, `dig_and_nc_reach_allowed_addresses_and_learn_at_once_of_others` |
/// | §4 HTTP: a body waits for its origin's word, and hints pass | `a_body_comes_when_its_origin_says_so`, `a_body_that_its_origin_does_not_want_stays`, `a_body_comes_when_its_origin_is_silent`, `hints_come_before_the_answer_and_hold_no_credential`, `an_http_1_0_client_knows_no_interim_answer`, `hints_and_leave_pass_over_http2`, `hints_and_leave_pass_from_http2_to_http1`, `hints_and_leave_pass_from_http1_to_http2`, `a_body_over_http2_waits_for_its_origin`, `curl_waits_for_its_origin_and_gets_hints`, `curl_and_node_hear_each_other_before_the_answer_over_http2` |
/// | §4 HTTP is translated where the upstream differs | `http2_is_translated_for_an_origin_without_it`, `http1_is_translated_for_an_origin_without_it`, `curl_over_http1_reaches_a_service_of_http2_alone` |
/// | §4 HTTP/2: gRPC of every kind, cancelled and late calls; WebSocket | `grpc_of_every_kind_passes_with_its_credential_and_its_end`, `a_websocket_passes_both_ways_with_its_credential`, `node_opens_a_websocket_on_a_stream`, `a_websocket_reaches_a_service_of_http2_alone`, `a_websocket_in_clear_goes_as_its_client_asks_if_its_origin_takes_it_so` |
/// | §4 HTTP/2: a page in a browser; HTTP/3 refused at once; a connection that its upstream ends | `chromium_shows_a_page_and_does_without_http_3`, `no_request_is_lost_with_a_connection_that_its_upstream_ends` |
/// | §4 PostgreSQL | `psql_speaks_tls_with_whom_it_names_or_not_at_all`, `tls_is_granted_once_it_is_asked_for_and_kerberos_is_not`, `an_upstream_has_to_grant_tls_and_to_say_no_more` |
/// | §4 an unreadable hello | `rows_are_asked_in_order` |
/// | §5 which names may be resolved | `names_are_resolved_as_dns_says`, `of_two_rows_the_earlier_answers_a_resolver`, `a_control_plane_says_less_and_opens_what_the_operator_lists` |
/// | §5 addresses in answers are vetted; the block address never stands for an origin | `no_policy_lets_a_protected_or_block_address_be_dialled`, `the_block_address_is_never_allowed` |
/// | §5 special-use names | `special_use_names_reach_no_resolver` |
/// | §5 every type, aliases, truncation, TTLs, what is not there, as `dig` and `unbound` see it | `every_type_is_answered_within_policy_and_for_as_long_as_its_records_say`, `alias_chains_are_flattened_to_their_shortest_ttl`, `an_alias_alone_is_no_data_and_what_it_stands_for_is_not_asked`, `a_name_without_the_type_is_not_a_name_that_does_not_exist_and_both_are_kept`, `what_is_not_there_is_so_by_the_word_of_its_zone_for_as_long_as_zone_and_limits_say`, `what_is_not_there_comes_with_the_zone_that_says_so_and_a_refusal_without_one` |
/// | §5 the host's resolvers or others, in clear or over TLS | `a_resolver_with_a_name_is_asked_over_tls_or_not_at_all`, `a_resolver_is_written_and_read_in_one_form` |
/// | §6 the URL; the hosts that the operator lists; without an issuer | `each_fault_of_a_response_or_match_is_found`, `a_control_plane_says_less_and_opens_what_the_operator_lists`, `what_the_host_lacks_is_refused_with_its_reason` |
/// | §6 the request, the headers, the token | `a_forward_url_gets_the_request_and_a_token`, `a_forward_url_is_bound_to_its_url_and_to_the_policy`, `the_helper_of_the_reference_sdk_verifies_a_forwarded_request` |
/// | §6 `exp`, and keys that change | `a_token_is_signed_once_for_each_audience_and_never_used_to_its_end`, `keys_are_published_before_and_after_they_sign` |
/// | §7 a closed set of reasons, and their statuses | `every_reason_has_the_status_of_the_policy_page`, `a_refusal_has_the_status_that_a_client_sees` |
/// | §7 hints | `a_hint_is_the_line_that_would_allow_it` |
/// | §8 `observe` | `observe_relaxes_six_reasons_and_injects_nothing`, `what_is_observed_is_denied_and_goes_its_way` |
/// | §8 the pool is keyed by what the origin is shown, too | `an_origin_is_shown_the_certificate_that_its_name_has`, `the_daemon_shows_an_origin_the_certificate_that_its_name_has` |
/// | §8 a document that does not compile says every fault | `every_fault_is_shown_with_its_place_and_help`, `any_document_compiles_or_says_why` |
/// | §8, §9 a push replaces a revision that it names; repeated, it stays in force | `a_push_may_name_the_revisions_that_it_replaces_and_be_repeated` |
/// | §9 errors: their statuses and their form; nothing changes | `every_refusal_has_the_form_of_one`, `what_cannot_be_is_refused_and_changes_nothing`, `no_request_meets_a_fault_of_the_server_or_an_answer_that_is_not_told` |
/// | §9 every spelling of the reference product's clients | `its_sdk_drives_the_daemon`, `its_older_sdks_drive_the_daemon`, `its_cli_drives_the_daemon` |
/// | §9 what comes back, and can be written again | `a_policy_comes_back_in_the_custom_form_without_values`, `rules_come_back_by_domain_with_the_case_of_header_names`, `what_comes_back_from_the_api_can_be_written_again` |
pub mod clauses {}

/// Every attack that is known, and the test that pins it.
///
/// Numbers are those of the collection that the project began with (attacks on systems like this one, most of them
/// found in the field). `tests/tidy.rs` checks that each test named here exists, and that no attack that has a
/// test of its own is missing here. Those stand in `tests/bypass`, `tests/confinement.rs` and `tests/escape.rs`, which
/// use the binary, and in `tests/data_path.rs`, which uses the library; some are pinned by tests of what is attacked.
///
/// | attack | test |
/// |---|---|
/// | A1 a plaintext `Host` that is allowed, at another's address | `a01_plaintext_host_spoofed_to_an_attackers_address`, `a1_a_plaintext_host_spoof_does_not_reach_the_address_it_dialled`, `a1_a_credential_is_not_sent_in_clear` |
/// | A2 an SNI that is allowed, at another's address | `a02_allowed_server_name_at_an_attackers_address`, `a2_a_forged_sni_reaches_the_owner_of_the_name_or_nobody` |
/// | A3 SNI and `Host` differ inside terminated TLS | `a03_fronting_inside_terminated_tls`, `a3_a7_a_terminated_request_names_what_its_hello_named` |
/// | A4 `:authority` differs, on a later stream | `a04_another_authority_on_a_later_stream`, `a4_every_http2_stream_is_judged_alone` |
/// | A5 `CONNECT` | `a05_connect_is_no_way_through`, `a5_connect_is_refused` |
/// | A6 fronting on spliced flows | `a06_fronting_on_a_spliced_flow_is_closed_by_strict` |
/// | A7 absolute form against `Host` | `a07_absolute_form_against_host` |
/// | A8 several, listed, folded `Host` lines | `a08_doubtful_host_lines`, `a8_a_doubtful_host_is_refused` |
/// | A10 TLS without a server name | `a10_tls_without_a_server_name` |
/// | A11 a server name that is an address, cut by NUL, too long, doubled | `a11_doubtful_server_names` |
/// | A12 a neighbour on the same address | `a12_a_neighbour_on_the_same_address` |
/// | A14 more hosts allowed than injected into | `a14_an_alias_gets_no_credential` |
/// | A15 a broad rule shadows a narrow one | `a15_order_of_broad_and_narrow_rules` |
/// | B16 trailing dot | `b16_trailing_dot` |
/// | B17 case | `b17_case` |
/// | B18 brackets | `b18_brackets` |
/// | B19 NUL and other control bytes | `b19_control_bytes_in_a_name` |
/// | B20 internationalised spellings | `b20_internationalised_spellings` |
/// | B21 a suffix without a label boundary | `b21_suffix_without_a_label_boundary` |
/// | B22 wildcard depth | `b22_wildcard_depth` |
/// | B23 other ports | `b23_other_ports` |
/// | C24 IPv4 in IPv6 | `c24_mapped_and_compatible_addresses` |
/// | C25 NAT64, 6to4, Teredo | `c25_translated_and_tunnelled_addresses` |
/// | C27 addresses spelled as names | `c27_addresses_spelled_as_names` |
/// | C28 special ranges, metadata | `c28_special_ranges` |
/// | C29 the host itself, our own listener, the control API of a daemon | `c29_the_hosts_own_addresses`, `c29_the_listeners_own_port_is_a_loop`, `c29_no_sandbox_reaches_the_control_api_or_another_listener` |
/// | C30 an allowed name that resolves to a private address | `c30_an_allowed_name_resolves_to_a_private_address` |
/// | C31 a mixed answer | `c31_a_mixed_answer` |
/// | C32 rebinding | `c32_rebinding` |
/// | C33 a kept connection whose address has become protected | `c33_a_kept_connection_is_not_used_once_its_address_is_protected`, `c33_an_http2_connection_gets_no_stream_once_its_address_is_protected` |
/// | C34 an ambient proxy of our own process | `c34_an_ambient_proxy_is_ignored` |
/// | C34 a proxy of the operator's that would connect to anybody, itself too | `c34_an_upstream_proxy_opens_no_protected_address`, `c34_all_goes_through_the_operators_proxy_by_address` |
/// | C36 IPv6 unfiltered | `c36_the_same_over_ipv6` |
/// | D37 DNS tunnelling | `d37_tunnelling_in_refused_names`, `d37_tunnelling_in_allowed_names_is_bounded` |
/// | D38 our own look-up of a denied name | `d38_a_denied_name_never_reaches_a_resolver`, `d38_what_an_alias_stands_for_never_reaches_a_resolver` |
/// | D39 other resolvers | `d39_other_resolvers` |
/// | D40 QUIC | `d40_quic_is_refused_at_once` |
/// | D41 ECH | `d41_encrypted_client_hello`, `d41_service_records_carry_no_ech_and_no_quic` |
/// | D42 fragmented hellos | `d42_fragmented_hellos` |
/// | D43 stalled hellos | `d43_a_stalled_hello` |
/// | E46, E47 what can be framed in two ways | `e46_e47_what_can_be_framed_in_two_ways_goes_nowhere`, `e47_a_chunk_outside_the_grammar_ends_the_request` |
/// | E48 a second request in the same bytes, a head without end | `e48_pipelined_requests_are_judged_one_by_one`, `e48_a_head_over_the_limit_is_refused`, `e48_a_head_of_too_many_fields_is_refused_over_http2_too` |
/// | E48 `Expect` that makes two requests of one, interim answers without end | `e48_no_expectation_makes_two_requests_of_one`, `e48_a_flood_of_interim_answers_is_bounded`, `e48_a_flood_of_interim_answers_over_http2_is_bounded`, `e48_an_interim_answer_is_no_end` |
/// | E49 what follows a refused `CONNECT`, or a switch that its origin does not make | `e49_what_follows_a_refused_switch_is_a_request_like_any_other` |
/// | E50 h2c | `e50_an_upgrade_to_h2c_is_as_if_not_asked_for` |
/// | E51 HTTP/2 that HTTP/1 misreads | `e51_http2_in_clear_is_judged_like_any_other`, `e51_what_http2_allows_and_http1_misreads_is_not_translated`, `e51_what_an_origin_of_http2_alone_answers_frames_no_second_answer` |
/// | E52 WebSocket, a switch that nobody asked for | `e52_a_websocket_passes_with_its_credential`, `e52_a_switch_that_was_not_asked_for_is_no_way_out`, `e52_a_websocket_on_a_stream_is_judged_and_passes_like_any_other`, `e52_a_stream_opens_only_when_its_origin_switches`, `e52_a_websocket_reaches_an_origin_of_http2_alone_from_a_connection`, `e52_a_websocket_reaches_an_origin_of_http2_alone_from_a_stream`, `e52_an_origin_of_http2_alone_that_takes_no_websocket_is_asked_for_none`, `e52_a_stream_upstream_opens_by_200_alone`, `e52_what_comes_before_the_answer_reaches_only_who_grants`, `e52_a_stream_upstream_does_not_switch_by_101`, `e52_a_connect_that_tells_a_length_opens_nothing` |
/// | E52 `CONNECT` with another protocol, or to another origin, on a stream | `e52_connect_with_another_protocol_or_none_is_refused` |
/// | E53 paths of two readings | `e53_a_path_of_two_readings_is_refused_and_one_of_one_passes_as_it_is`, `a_path_is_decoded_to_the_most_it_may_mean`, `a_path_whose_readings_meet_different_rules_is_refused` |
/// | E54 a method in disguise (what a service itself reads as another method, such as a `GET` with `X-HTTP-Method-Override`, is for a rule on that header) | `e54_a_method_is_the_one_that_is_said` |
/// | E55 whatever servers read in another way | `e_servers_see_the_requests_that_were_judged_and_no_others` |
/// | F56 hop-by-hop headers that take the injected one away | `f56_connection_cannot_take_away_what_is_injected`, `f56_connection_cannot_take_away_what_a_rule_looked_at` |
/// | F57 the injected header sent by the sandbox | `f57_the_client_sends_the_injected_header_too`, `f57_exactly_one_injected_header_goes_out`, `f57_no_trailer_repeats_what_is_injected` |
/// | F56 hop-by-hop headers that take away what is signed | `f56_connection_cannot_take_away_what_is_signed` |
/// | F57 a signature of the sandbox's own beside a rule's | `f57_a_rules_own_signature_is_the_only_one` |
/// | F57 what we say of a forwarded request, said by the sandbox | `f57_the_sandbox_cannot_forge_what_we_say_of_a_forwarded_request` |
/// | F58 an origin echoes what it was sent: in fields, bodies, trailers and WebSockets, encoded, compressed, in pieces | `f58_an_echo_is_struck_out_of_fields_and_bodies_in_every_coding`, `f58_it_is_struck_out_across_chunks_and_in_trailers_and_nothing_else_waits`, `f58_it_is_struck_out_over_http2_and_where_this_request_injected_nothing`, `f58_it_is_struck_out_of_what_a_websocket_brings`, `f58_a_credential_in_the_document_is_struck_out_and_plain_words_are_not` |
/// | F58 asking for a part, or for a coding that cannot be read | `f58_no_part_and_no_coding_is_asked_for_that_could_not_be_read`, `f58_what_cannot_be_read_does_not_pass` |
/// | F60 a redirect to another origin | `f60_a_redirect_is_the_clients_to_follow_and_gets_no_credential_elsewhere`, `f61_to_another_origin` |
/// | F61 a placeholder sent to another origin, as by who follows a redirect | `f61_to_another_origin` |
/// | F61 a placeholder in a header that is stored and shown again, in several, split over two | `f61_in_another_header`, `f61_split_over_two_headers` |
/// | F61 a placeholder in the path, the query, pseudo-headers, the body, trailers | `f61_in_the_path_and_in_pseudo_headers`, `f61_in_a_body_and_in_trailers` |
/// | F61 a rule that has it replaced in the query and the body, used for another place, another secret, another origin | `f61_where_a_rule_says_so_it_is_replaced_in_the_query_and_the_body`, `f61_where_a_rule_names_the_query_or_the_body_nothing_else_is_replaced`, `f61_where_a_rule_replaces_it_does_so_for_what_may_go_there_alone`, `f61_in_every_corner_of_where_a_rule_replaces`, `f61_in_a_part_that_a_service_may_read_in_another_way`, `f61_in_a_body_of_another_length_than_is_said` |
/// | F61 an echo of what a placeholder became | `f61_the_origin_gets_the_secret_and_its_echo_is_struck_out` |
/// | F58, F60, F61, G71 all of it by chance, ten thousand times, under pushes, rotation and names that move | `f61_in_ten_thousand_requests_by_chance_no_value_goes_astray` |
/// | F61 something signed that no placeholder signed: another request, another key, pieces of a body | `f61_what_is_signed_with_a_placeholder_arrives_signed_with_the_key`, `f61_what_the_placeholder_did_not_sign_is_not_signed`, `f61_a_piece_that_is_not_signed_ends_the_request` |
/// | F61 a key that signs, where credentials are replaced | `f61_a_key_that_signs_goes_out_nowhere` |
/// | F62 a placeholder in another spelling | `f62_in_another_spelling`, `f62_in_another_spelling_where_a_rule_replaces` |
/// | F63 a secret that cannot be had | `f63_a_missing_secret_stops_the_request_before_anybody_is_contacted`, `f63_services_give_secrets_and_without_one_nothing_is_sent` |
/// | F64 injection to an unverified upstream | `f64_an_unverified_upstream_gets_nothing`, `f64_an_upstream_that_cannot_be_verified_gets_no_credential` |
/// | F63, F64 a signature without its key, or in clear | `f63_f64_without_its_key_or_in_clear_nothing_is_signed` |
/// | F64 a placeholder in clear | `f64_a_placeholder_in_clear` |
/// | F65 secrets inside | `no_secret_is_anywhere_inside`, `well_known_credentials_are_masked_unless_exposed` |
/// | F65 secrets in what we emit, and in what our children are given | `no_secret_is_in_what_exeat_shows_of_itself`, `f65_no_secret_is_in_anything_that_the_daemon_or_its_children_emit` |
/// | F65 secrets in swap, in a core dump, in the memory of children | `f65_a_value_that_is_kept_is_in_locked_memory_alone` |
/// | F67 a credential that changes what else may go out | `credentials_that_are_sent_and_no_longer_sent`, `each_fault_of_a_document_is_found` |
/// | F68 a name that comes by a credential unasked | `a14_an_alias_gets_no_credential`, `the_most_specific_entry_alone_applies`, `a_secret_goes_to_the_names_of_its_grant_alone`, `a_control_plane_sends_the_operators_secret_where_the_operator_says` |
/// | F69 another sandbox's placeholder | `f69_another_sandboxes_placeholder` |
/// | G70 a policy that changes under live traffic | `g70_revocation_cuts_a_splice`, `g70_revocation_ends_a_request_in_flight`, `g70_revocation_ends_an_idle_terminated_flow_and_a_websocket`, `g70_revocation_ends_one_http2_stream_and_leaves_the_others`, `g70_a_push_closes_what_is_kept`, `g70_revocation_ends_a_udp_flow`, `g70_revocation_ends_a_websocket_on_a_stream`, `g70_revocation_ends_a_websocket_to_an_origin_of_http2_alone` |
/// | G71 upstream connections and TLS sessions shared between sandboxes, policies or credentials | `g71_no_upstream_connection_is_shared_between_sandboxes`, `g71_no_upstream_connection_is_shared_between_credentials`, `g71_a_tls_session_is_resumed_under_the_same_policy_and_credentials_alone` |
/// | G71 poisoning the answers of a kept connection | `g71_an_answer_that_nobody_asked_for_reaches_nobody`, `g71_what_is_not_a_whole_exchange_leaves_no_connection_behind` |
/// | G72 before the first policy, or without us | `nothing_said_is_deny_all`, `a_sandbox_reaches_what_its_policy_allows_and_nothing_of_the_host`, `what_was_acknowledged_survives_a_crash_and_nothing_is_reachable_meanwhile`, `with_the_daemon_stopped_or_killed_nothing_passes`, `a_secret_that_cannot_be_had_is_an_error_before_the_start` |
/// | G73 a change in the middle of a dial | `g73_a_change_while_dialling_is_judged_before_the_first_byte` |
/// | G73 pushes that overtake one another | `g73_of_two_pushes_at_once_that_replace_one_revision_one_is_in_force`, `a_push_may_name_the_revisions_that_it_replaces_and_be_repeated` |
/// | G75 a policy that cannot be | `what_cannot_be_is_refused_and_changes_nothing`, `a_fault_changes_nothing`, `what_the_daemon_refuses_is_told_in_its_words`, `a_store_that_cannot_be_used_is_left_as_it_is` |
/// | G76 empty lists, and none | `nothing_said_is_deny_all`, `each_fault_of_a_document_is_found`, `what_is_wrong_in_form_fits_neither_the_schema_nor_the_reader` |
/// | G77 a key that is not known | `every_key_of_the_language_is_in_the_schema_with_words_for_it`, `a_field_that_is_misspelled_doubled_or_of_another_type_is_told_by_name`, `a_fault_is_told_with_its_line_and_without_the_file` |
/// | G78 what comes first | `rows_are_asked_in_order`, `of_two_rows_the_earlier_answers`, `of_two_patterns_the_more_specific_applies`, `of_two_rules_the_first_claims_whatever_they_do`, `the_engine_agrees_with_the_oracle_on_100_000_pairs` |
/// | H80 ignoring conventions | `h80_ignoring_conventions` |
/// | H81 UDP to where it may not go | `udp_goes_to_allowed_addresses_alone` |
/// | H81 other transports | `h81_other_transports`, `an_allowed_cidr_is_relayed_whatever_is_spoken` |
/// | H81 other socket families, raw sockets | `socket_families_past_ip_are_refused`, `raw_sockets_are_refused` |
/// | H82 flushing the rules, nesting namespaces | `the_rules_cannot_be_flushed_from_inside`, `a_nested_user_namespace_gains_no_power_over_the_network` |
/// | H82 the same with one socket's options, or by listening | `h82_socket_options_past_the_rules`, `h82_listening_in_our_place` |
/// | H83 a peer on loopback | `h83_loopback_is_the_sandboxs_own` |
/// | H85 another's folder on an allowed host | `e53_a_path_of_two_readings_is_refused_and_one_of_one_passes_as_it_is`, `every_preset_passes_its_cases_and_has_some`, `a_secret_goes_along_with_the_requests_of_its_grant_alone`, `a_name_is_told_that_is_relayed_unread_to_a_host_of_many` |
/// | H86 what is inspected and cannot be read (no query of a database is) | `f58_what_cannot_be_read_does_not_pass`, `f61_a_piece_that_is_not_signed_ends_the_request`, `postgres_says_nothing_in_clear` |
/// | I87 heads and bodies that never end, or hardly go on | `i87_a_head_that_stops_in_its_middle_holds_nobody_up`, `a_head_may_not_take_for_ever`, `a_head_has_limits`, `an_idle_connection_ends_but_not_while_a_request_is_answered`, `a_trickle_does_not_prolong_the_time`, `chunks_outside_the_grammar_end_the_body` |
/// | I88 names without end, each with a leaf | `i88_names_without_end_cost_one_sandbox_its_leaves_and_no_other`, `attack_i88_minting_is_budgeted_and_kept_leaves_cost_nothing`, `attack_i88_leaves_are_bounded`, `a_clock_that_is_set_back_does_not_stop_minting` |
/// | I89 one sandbox that takes all flows, requests or bytes there are | `i89_flows_over_the_bound_of_a_sandbox_are_refused`, `i89_udp_over_the_bounds_of_a_sandbox_is_refused_or_lost`, `i89_requests_over_the_rate_are_told_when_to_come_again`, `i89_bytes_over_the_rate_wait_and_nothing_is_cut` |
/// | I90 HTTP/2 streams that are reset as they open, heads without end or far larger than their bytes, from either side; answers that swell | `i90_streams_that_are_reset_as_they_open_end_the_connection`, `i90_streams_that_are_reset_when_they_are_taken_make_room_for_no_more_than_there_is`, `i90_a_head_that_goes_on_for_ever_ends_the_connection`, `i90_a_head_that_is_far_larger_than_its_bytes_ends_the_connection`, `i90_an_origins_head_without_end_or_far_larger_than_its_bytes_is_no_answer`, `one_step_is_bounded_however_far_its_input_swells`, `zstandard_is_read_within_its_window`, `what_nobody_reads_has_to_wait` |
/// | I91 what one sandbox said, in what another gets | `i91_what_one_sandbox_moved_reaches_no_other`, `what_is_given_back_is_zero_and_has_another_owner` |
/// | I92 what should pass at once, held up | `i92_an_event_passes_before_the_next_is_there`, `what_was_flushed_is_given_back_at_once`, `what_holds_no_value_passes_as_it_is_and_at_once`, `grpc_of_every_kind_passes_with_its_credential_and_its_end` |
/// | PostgreSQL: cleartext on the way to TLS | `postgres_says_nothing_in_clear`, `postgres_is_not_led_to_another_encryption` |
/// | docker.sock, D-Bus, agents | `unix_sockets_bound_at_start_are_masked`, `run_and_shared_memory_are_private` |
/// | abstract Unix sockets | `an_abstract_socket_is_out_of_reach` |
/// | a terminal multiplexer outside | `a_terminal_multiplexer_outside_takes_no_orders` |
/// | agents and proxies in the environment | `the_environment_names_no_agent_bus_or_proxy` |
/// | a search list, another name service | `the_resolver_configuration_is_ours` |
/// | typing into the user's terminal | `typing_for_the_user_is_refused` |
/// | `io_uring`, keyrings | `io_uring_and_keyrings_are_refused` |
/// | kernel settings | `kernel_settings_cannot_be_written` |
/// | other processes | `processes_outside_are_neither_seen_nor_traced` |
/// | inherited descriptors | `no_descriptor_is_inherited`, `standard_input_is_no_socket_and_no_directory` |
/// | System V memory, queues, semaphores | `shared_memory_and_queues_outside_are_not_seen` |
/// | forging the record, escape sequences | `hostile_names_stay_text_in_the_record` |
/// | root inside | `root_inside_is_nobody_outside` |
/// | a socket bound by a relative path, or seen at another mount | `a_host_socket_is_masked_whichever_way_its_path_was_bound`, `a_masked_path_is_masked_at_every_mount_of_its_tree` |
/// | undoing masks in nested namespaces | `nested_namespaces_undo_no_mask` |
/// | the first process inside | `process_1_is_neither_read_nor_traced_nor_ended` |
/// | another ABI's system calls | `no_other_numbering_of_system_calls_reaches_a_socket` |
/// | ending our process from inside | `a_real_time_signal_ends_its_process_and_nothing_else` |
/// | losing or stealing a terminal | `a_terminal_that_nobody_holds_open_loses_nothing`, `in_the_background_of_a_terminal_the_command_runs_on` |
pub mod attacks {}
