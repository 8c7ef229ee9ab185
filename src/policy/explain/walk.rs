//! The rows of POLICY §3, asked one after the other and written down.
//!
//! It asks the rows of [`crate::policy`] in the order in which [`Policy::judge`] has them asked. What a judgement
//! skips, such as the name where the address has settled it, is skipped here.

use std::net::IpAddr;
use std::ops::ControlFlow::{self, Break, Continue};

use http::header::HOST;

use super::{Answer, Row, Settled, Step};
use crate::flow::{Domain, RequestHead, Scheme};
use crate::matcher::cidr::{readings, unwrap};
use crate::matcher::path::fully_decoded;
use crate::policy::judge::{Asked, DNS_PORT, Question};
use crate::policy::placeholder::{Place, StandIn};
use crate::policy::protected::{Guard, Protected, is_openable};
use crate::policy::remedy::lpm;
use crate::policy::verdict::{Action, Denial, DenyReason, RouteTaken, RuleId, Target, Verdict};
use crate::policy::{Base, Claim, Dns, Entry, Permitted, Policy, Rule, Then, is_block};

/// The steps of a judgement, up to the one that settled it.
pub(super) fn steps(policy: &Policy, question: &Question, host: &Protected) -> Vec<Step> {
    let block = question.address.is_some_and(is_block);
    let mut walk = Walk { policy, question, host, block, relaxed: None, steps: Vec::new() };
    // However it breaks off, it has been settled.
    let _ = walk.judge();
    walk.steps
}

struct Walk<'a> {
    policy: &'a Policy,
    question: &'a Question,
    host: &'a Protected,
    /// Whether it dials the block address, which is refused in any case.
    block: bool,
    /// The first denial that `observe` let through.
    relaxed: Option<Denial>,
    steps: Vec<Step>,
}

/// Breaks off when a step has settled the judgement.
type Progress = ControlFlow<()>;

/// Whom a permit lets contact.
enum Contact<'a> {
    /// The address that the question gives, if it gives one.
    Dialled,
    /// A host of whose address the question says nothing.
    Elsewhere(&'a Domain),
    Nobody,
}

/// Why a row about addresses is not asked.
const UNKNOWN: &str = "no address is known";
const NO_NAME: &str = "no name is known";

/// In the order of a connection.
impl<'a> Walk<'a> {
    fn judge(&mut self) -> Progress {
        self.name()?;
        self.row_0()?;
        if self.block && self.is_cleartext() {
            self.authority()?;
        }
        self.rows_1_to_3()?;
        let by_address = self.row_4()?;
        match &self.question.asked {
            None => self.opaque(),
            Some(Asked { scheme: Scheme::Https, .. }) => self.tls(),
            Some(asked) => self.cleartext(asked, by_address),
        }
    }

    /// POLICY §5: matched before it is resolved.
    fn name(&mut self) -> Progress {
        let Some(name) = &self.question.name else {
            self.put(not_asked(Row::Dns, "May the name be resolved?", NO_NAME));
            return Continue(());
        };
        let question = format!("May `{name}` be resolved?");
        match self.policy.row_dns(name) {
            Verdict::Allow(basis) => {
                let note = match self.policy.dns {
                    Dns::Any => "`dns: any`, and `deny` does not match it".to_owned(),
                    Dns::Names | Dns::None => self.why_allowed(name),
                };
                let note = if name.is_special_use() && self.question.address.is_none() {
                    format!("{note}; being special-use, it has no address unless `run --resolve` says one")
                } else {
                    note
                };
                self.put(yes(Row::Dns, question).by(basis.rule.as_ref()).noting(note));
                Continue(())
            }
            Verdict::Deny(denial) => {
                let note = match denial.reason {
                    DenyReason::DeniedDomain => self.why_denied(name),
                    DenyReason::DenyAll => "the policy allows nothing".to_owned(),
                    _ if self.policy.dns == Dns::None => "`dns: none` resolves no name".to_owned(),
                    _ => "`allow` does not match it".to_owned(),
                };
                if self.policy.relaxes(denial.reason) {
                    let note = format!("{note}, and `observe` lets it be resolved all the same");
                    self.put(yes(Row::Dns, question).by(denial.basis.rule.as_ref()).noting(note));
                    return Continue(());
                }
                self.put(no(Row::Dns, question).by(denial.basis.rule.as_ref()).noting(note));
                self.deny(denial)
            }
        }
    }

    fn row_0(&mut self) -> Progress {
        let question = "Is it to port 53, or to the block address?";
        if self.question.port == DNS_PORT {
            self.put(yes(Row::Table(0), question).noting("exeat's own resolver answers, whichever is dialled"));
            let settled = Settled { outcome: Ok(RouteTaken::Respond), observed: None, rule: None };
            return self.dial(settled, &Contact::Nobody);
        }
        if self.block {
            let note = "it stands for names that were refused, and is refused by its name's reason";
            self.put(yes(Row::Table(0), question).noting(note));
        } else {
            self.put(no(Row::Table(0), question));
        }
        Continue(())
    }

    fn rows_1_to_3(&mut self) -> Progress {
        match self.question.address.filter(|_| !self.block) {
            Some(address) => {
                self.row_1(address)?;
                self.row_2(address)?;
            }
            None => {
                let why = if self.block { "the block address is nobody's" } else { UNKNOWN };
                self.put(not_asked(Row::Table(1), "Does the address lie in `subnets.deny`?", why));
                let question = "Is the address in a protected range that this policy may not open?";
                self.put(not_asked(Row::Table(2), question, why));
            }
        }
        let question = "Is the mode deny-all, or the policy empty?";
        match self.policy.row_3() {
            Some(denial) => {
                let note = if denial.basis.rule.is_some() { "the mode" } else { "no list allows anything" };
                self.put(yes(Row::Table(3), question).by(denial.basis.rule.as_ref()).noting(note));
                self.refuse(denial)
            }
            None => {
                self.put(no(Row::Table(3), question));
                Continue(())
            }
        }
    }

    fn row_1(&mut self, address: IpAddr) -> Progress {
        let question = format!("Does {address} lie in `subnets.deny`?");
        let Some(denial) = self.policy.row_1(address) else {
            self.put(no(Row::Table(1), question));
            return Continue(());
        };
        let found = readings(address).find_map(|reading| Some((reading, lpm(&self.policy.subnets_deny, reading)?.0)));
        let note = match found {
            Some((reading, range)) if reading == address => format!("in `{range}`"),
            Some((reading, range)) => format!("read as {reading}, in `{range}`"),
            None => String::new(),
        };
        self.put(yes(Row::Table(1), question).by(denial.basis.rule.as_ref()).noting(note));
        self.refuse(denial)
    }

    fn row_2(&mut self, address: IpAddr) -> Progress {
        let question = format!("Is {address} in a protected range that this policy may not open?");
        let (Some(denial), Some(guard)) =
            (self.policy.row_2(address, self.host), self.host.guard(address, &self.policy.opened))
        else {
            self.put(no(Row::Table(2), question));
            return Continue(());
        };
        let openable = guard.range.is_some() && is_openable(guard.reading);
        let supernet = lpm(&self.policy.subnets_allow, guard.reading).filter(|_| openable);
        let mut note = why_protected(address, guard);
        if let Some((range, _)) = supernet {
            note.push_str(&format!("; `{range}` is too wide to open it"));
        }
        self.put(yes(Row::Table(2), question).by(supernet.map(|(_, rule)| rule)).noting(note));
        self.refuse(denial)
    }

    /// Row 4; the line that permits what row 0 or `observe` still has a say in.
    fn row_4(&mut self) -> ControlFlow<(), Option<&'a RuleId>> {
        let undecided = self.policy.row_3().is_none() && (!self.is_doomed() || self.is_cleartext());
        let Some(address) = self.question.address.filter(|_| undecided) else {
            let why = if self.question.address.is_some() { "its address is refused" } else { UNKNOWN };
            self.put(not_asked(Row::Table(4), "Does the address lie in `subnets.allow`?", why));
            return Continue(None);
        };
        let question = format!("Does {address} lie in `subnets.allow`?");
        let allow = &self.policy.subnets_allow;
        let found = lpm(allow, unwrap(address)).or_else(|| lpm(allow, address));
        let (Some((range, rule)), Some(_)) = (found, self.policy.row_4(self.question.dst().0)) else {
            self.put(no(Row::Table(4), question));
            return Continue(None);
        };
        let note = format!("in `{range}`: no name is judged, and nothing injected");
        self.put(yes(Row::Table(4), question).by(Some(rule)).noting(note));
        if !self.is_doomed() {
            self.allow(RouteTaken::Relay, Some(rule), &Contact::Dialled)?;
        }
        Continue(Some(rule))
    }

    /// What is neither TLS nor HTTP names nobody, but its address may be pinned to names.
    fn opaque(&mut self) -> Progress {
        let Question { name, port, .. } = self.question;
        if matches!(port, 80 | 443) {
            self.put(yes(Row::Protocol, "Is it neither TLS nor HTTP, on port 80 or 443?"));
            return self.refuse(self.policy.denial(DenyReason::NotHttp, None));
        }
        self.put(not_asked(Row::Table(5), "Does `deny` match the name?", "its bytes name nobody"));
        self.put(not_asked(
            Row::Table(6),
            "Does `allow` match the name, or is the mode allow-all?",
            "its bytes name nobody",
        ));
        let question = format!("Is its address pinned to names that all have an `opaque` rule for port {port}?");
        match self.policy.row_7(name.as_slice(), *port) {
            Some(permit) => {
                let note = name.as_ref().map(|name| format!("`{name}` has one")).unwrap_or_default();
                self.put(yes(Row::Table(7), question).by(permit.basis().rule.as_ref()).noting(note));
                self.allow(RouteTaken::Relay, permit.basis().rule.as_ref(), &Contact::Dialled)
            }
            None => {
                let note = name
                    .as_ref()
                    .map_or_else(|| "no name was answered with it".to_owned(), |name| format!("`{name}` has none"));
                self.put(no(Row::Table(7), question).noting(note));
                self.rows_8_and_9(RouteTaken::Relay)
            }
        }
    }

    fn tls(&mut self) -> Progress {
        let Some(name) = &self.question.name else {
            return self.nameless(RouteTaken::Relay);
        };
        let permitted = self.rows_5_and_6(name, RouteTaken::Splice)?;
        if self.is_doomed() || !self.policy.terminates(&permitted, name) {
            return self.allow(RouteTaken::Splice, Some(permitted.rule()), &Contact::Dialled);
        }
        match &self.question.asked {
            Some(asked) => {
                self.authority()?;
                self.request(&permitted, &self.question.head(asked, Some(name)))
            }
            None => Continue(()),
        }
    }

    fn cleartext(&mut self, asked: &Asked, by_address: Option<&RuleId>) -> Progress {
        if !self.block {
            self.authority()?;
        }
        if self.policy.row_3().is_some() {
            return self.let_through(RouteTaken::Terminate);
        }
        if let Some(rule) = by_address {
            return self.allow(RouteTaken::Terminate, Some(rule), &Contact::Dialled);
        }
        let Ok(Some(name)) = self.question.authority(asked) else {
            return self.nameless(RouteTaken::Terminate);
        };
        let permitted = self.rows_5_and_6(&name, RouteTaken::Terminate)?;
        self.request(&permitted, &self.question.head(asked, Some(&name)))
    }

    /// Whether all that name the origin agree, where a `Host` of the question's own may not.
    fn authority(&mut self) -> Progress {
        let Some(asked) = self.question.asked.as_ref().filter(|asked| asked.headers.contains_key(HOST)) else {
            return Continue(());
        };
        let question = match asked.scheme {
            Scheme::Https => "Does `Host` say another origin than the TLS hello, or none that can be read?",
            Scheme::Http => "Does `Host` say another port than was dialled, or no origin that can be read?",
        };
        match self.question.authority(asked) {
            Ok(name) => {
                let note = name.map_or_else(|| "it names nobody".to_owned(), |name| format!("it says `{name}`"));
                self.put(no(Row::Authority, question).noting(note));
                Continue(())
            }
            Err(reason) => {
                self.put(yes(Row::Authority, question));
                self.refuse(self.policy.denial(reason, None))
            }
        }
    }

    fn rows_5_and_6(&mut self, name: &Domain, route: RouteTaken) -> ControlFlow<(), Permitted<'a>> {
        let denies = format!("Does `deny` match `{name}`?");
        let allows = format!("Does `allow` match `{name}`, or is the mode allow-all?");
        match self.policy.rows_5_and_6(name) {
            Verdict::Deny(denial) if denial.reason == DenyReason::DeniedDomain => {
                self.put(yes(Row::Table(5), denies).by(denial.basis.rule.as_ref()).noting(self.why_denied(name)));
                self.refuse(denial)?;
            }
            Verdict::Deny(denial) => {
                self.put(no(Row::Table(5), denies));
                self.put(no(Row::Table(6), allows));
                self.put(not_asked(Row::Table(7), PINNED, "a name is known"));
                self.put(not_asked(Row::Table(8), OPEN, "a name is known"));
                self.put(yes(Row::Table(9), OTHERWISE));
                self.refuse(denial)?;
            }
            Verdict::Allow(permitted) => {
                self.put(no(Row::Table(5), denies));
                let what = match (self.question.asked.as_ref().map(|asked| asked.scheme), &permitted) {
                    (Some(Scheme::Https), _) if !self.policy.terminates(&permitted, name) => {
                        ", without rules: relayed unread"
                    }
                    (Some(Scheme::Https), Permitted::Entry(entry)) if !entry.rules().is_empty() => {
                        ", with rules: TLS ends here, and each request is judged"
                    }
                    (Some(Scheme::Https), _) if !self.policy.strict => {
                        ", with a placeholder: TLS ends here, and each request is judged"
                    }
                    (Some(Scheme::Https), _) => ", under `strict`: TLS ends here, and each request is judged",
                    _ => "",
                };
                let note = format!("{}{what}{}", self.why_allowed(name), self.stand_ins(name));
                self.put(yes(Row::Table(6), allows).by(Some(permitted.rule())).noting(note));
                return Continue(permitted);
            }
        }
        self.let_through(route)?;
        Break(())
    }

    /// What becomes of placeholders on the way to a name.
    fn stand_ins(&self, name: &Domain) -> String {
        let Some(asked) = &self.question.asked else { return String::new() };
        let head = self.question.head(asked, Some(name));
        let told = self.joining(&head).map(|stand_in| {
            let headers: Vec<String> = stand_in.headers().iter().map(|header| format!("`{header}`")).collect();
            format!("; the placeholder of {} is replaced in {}", stand_in.secret().as_str(), headers.join(" and "))
        });
        told.collect()
    }

    /// The secrets whose placeholders may be replaced in a request.
    fn joining<'h>(&self, head: &'h RequestHead<'_>) -> impl Iterator<Item = &'h StandIn>
    where
        'a: 'h,
    {
        self.policy.stand_ins().filter(|stand_in| head.authority.is_some_and(|name| stand_in.may_join(name, head)))
    }

    /// What becomes of a request that this rule claims.
    fn what_it_does(&self, rule: &Rule, head: &RequestHead<'_>) -> String {
        match &rule.then {
            Then::Pass => "it goes on unchanged".to_owned(),
            Then::Transform(injections) => {
                let names: Vec<String> = injections.iter().map(|set| format!("`{}`", set.header)).collect();
                format!("it sets {}", names.join(", "))
            }
            Then::Respond(response) => format!("it is answered here, with {}", response.status.as_u16()),
            Then::Sign(signing) => {
                let names: Vec<&str> = signing.secrets().map(|name| name.as_str()).collect();
                format!("it is signed (`{}`) with {}", signing.kind(), names.join(", "))
            }
            Then::Replace(places) => {
                let places: Vec<&str> = places.iter().map(Place::word).collect();
                let (names, places) = (self.joining(head).collect::<Vec<_>>(), places.join(" and the "));
                match names.as_slice() {
                    [] => format!("in the {places} nothing is replaced: no secret that has a placeholder may go along"),
                    names => {
                        let names: Vec<&str> = names.iter().map(|stand_in| stand_in.secret().as_str()).collect();
                        format!("the placeholder of {} is replaced in the {places}, too", names.join(" and that of "))
                    }
                }
            }
            Then::Divert(url) => format!("it is sent to `{}`", url.text),
        }
    }

    /// Rows 5–9, where no name is known and none can be.
    fn nameless(&mut self, route: RouteTaken) -> Progress {
        self.put(not_asked(Row::Table(5), "Does `deny` match the name?", NO_NAME));
        self.put(not_asked(Row::Table(6), "Does `allow` match the name, or is the mode allow-all?", NO_NAME));
        self.put(not_asked(Row::Table(7), PINNED, "it is not opaque"));
        self.rows_8_and_9(route)
    }

    fn rows_8_and_9(&mut self, route: RouteTaken) -> Progress {
        match self.policy.rows_8_and_9(self.question.dst().0) {
            Verdict::Allow(permit) => {
                let rule = permit.basis().rule.as_ref();
                self.put(yes(Row::Table(8), OPEN).by(rule));
                self.allow(route, rule, &Contact::Dialled)
            }
            Verdict::Deny(denial) => {
                let open = matches!(self.policy.base, Base::AllowAll(_)) || self.policy.allow.any().is_some();
                let note = match (open, self.policy.strict, self.policy.deny.is_empty()) {
                    (false, _, _) => "the mode is not allow-all, and `allow` has no `*`",
                    (true, true, _) => "`strict` wants a name",
                    (true, false, false) => "what `deny` denies might hide in it",
                    (true, false, true) => "`*` has rules, which want a name",
                };
                self.put(no(Row::Table(8), OPEN).noting(note));
                self.put(yes(Row::Table(9), OTHERWISE));
                self.refuse(denial)?;
                self.let_through(route)
            }
        }
    }

    /// The rules of an entry.
    fn request(&mut self, permitted: &Permitted<'a>, head: &RequestHead<'_>) -> Progress {
        let entry = match permitted {
            Permitted::Entry(entry) if !entry.rules().is_empty() => *entry,
            Permitted::Entry(_) | Permitted::Mode(_) => {
                return self.allow(RouteTaken::Terminate, Some(permitted.rule()), &Contact::Dialled);
            }
        };
        let claim = entry.claim(head);
        self.path(entry, head, &claim)?;
        for (rule, number) in entry.rules().iter().zip(1..) {
            let question = "Does the request meet this rule's `match`?";
            match rule.when.failing(head.method, head.path.as_bytes(), head.query, head.headers) {
                Some(dimension) => {
                    let note = format!("not its `{}`", dimension.as_str());
                    self.put(no(Row::Rule(number), question).by(Some(&rule.id)).noting(note));
                }
                None => {
                    self.put(yes(Row::Rule(number), question).by(Some(&rule.id)).noting(self.what_it_does(rule, head)));
                    return self.act(rule, head);
                }
            }
        }
        let note = "it goes on unchanged";
        self.put(yes(Row::Unclaimed, "Does no rule claim it?").by(Some(&entry.id)).noting(note));
        self.allow(RouteTaken::Terminate, Some(&entry.id), &Contact::Dialled)
    }

    fn path(&mut self, entry: &Entry, head: &RequestHead<'_>, claim: &Claim<'_>) -> Progress {
        let decoded = fully_decoded(head.path);
        let reads = entry.handling.as_ref().is_some_and(|handling| handling.reads_path);
        if !reads || *decoded == *head.path.as_bytes() {
            return Continue(());
        }
        let decoded = String::from_utf8_lossy(&decoded);
        let question = format!("Would another rule claim the path as fully decoded, `{decoded}`?");
        if !matches!(claim, Claim::Ambiguous) {
            self.put(no(Row::Path, question));
            return Continue(());
        }
        self.put(yes(Row::Path, question).by(Some(&entry.id)));
        self.refuse(self.policy.denial(DenyReason::AmbiguousPath, Some(&entry.id)))
    }

    fn act(&mut self, rule: &Rule, head: &RequestHead<'_>) -> Progress {
        let rule_id = Some(&rule.id);
        let permit = self.policy.permit(Target::Address(head.dst.0), rule_id);
        match self.policy.act(rule, head, permit) {
            Verdict::Deny(denial) => {
                self.note(match denial.reason {
                    DenyReason::PlaintextInjection => ", which is never done in clear",
                    DenyReason::DeniedDomain => ", to a host that `deny` matches",
                    DenyReason::AmbiguousPath => ", beneath whose URL this path may not stay",
                    _ => ", with a secret that may not go along with this request",
                });
                self.refuse(denial)
            }
            Verdict::Allow(Action::Respond(..)) if self.policy.observe && !self.is_doomed() => {
                self.refuse(self.policy.denial(DenyReason::NoRule, rule_id))?;
                self.let_through(RouteTaken::Terminate)
            }
            Verdict::Allow(Action::Respond(..)) => self.allow(RouteTaken::Respond, rule_id, &Contact::Nobody),
            Verdict::Allow(Action::Forward(_)) => self.allow(RouteTaken::Terminate, rule_id, &Contact::Dialled),
            Verdict::Allow(Action::Divert(url, _)) => {
                self.allow(RouteTaken::Forward, rule_id, &Contact::Elsewhere(&url.host))
            }
        }
    }
}

const PINNED: &str = "Is its address pinned to names that all have an `opaque` rule for this port?";
const OPEN: &str = "Does allow-all, or `*` without rules, permit what names nobody?";
const OTHERWISE: &str = "Has nothing above permitted it?";

/// How it ends.
impl Walk<'_> {
    /// Whether it is denied, or let through by `observe`, whatever else is asked.
    fn is_doomed(&self) -> bool {
        self.block || self.relaxed.is_some()
    }

    fn is_cleartext(&self) -> bool {
        self.question.asked.as_ref().is_some_and(|asked| asked.scheme == Scheme::Http)
    }

    /// A denial, unless `observe` relaxes it.
    fn refuse(&mut self, denial: Denial) -> Progress {
        if self.block || !self.policy.relaxes(denial.reason) {
            return self.deny(denial);
        }
        self.note(if self.relaxed.is_none() { "; observed" } else { "" });
        self.relaxed.get_or_insert(denial);
        Continue(())
    }

    fn deny(&mut self, denial: Denial) -> Progress {
        let Denial { reason, basis } = denial;
        self.settle(Settled { outcome: Err(reason), observed: None, rule: basis.rule });
        Break(())
    }

    /// A permit, unless row 0 forbids it, or `observe` has relaxed a denial.
    fn allow(&mut self, route: RouteTaken, rule: Option<&RuleId>, contact: &Contact<'_>) -> Progress {
        if self.block {
            self.put(yes(Row::Table(9), OTHERWISE).noting("the block address is never dialled"));
            let named = match &self.question.asked {
                None => false,
                Some(asked) if asked.scheme == Scheme::Http => matches!(self.question.authority(asked), Ok(Some(_))),
                Some(_) => self.question.name.is_some(),
            };
            let reason = if named { DenyReason::NoRule } else { DenyReason::NoName };
            return self.deny(self.policy.denial(reason, None));
        }
        if self.relaxed.is_some() {
            return self.let_through(match route {
                RouteTaken::Splice | RouteTaken::Relay => route,
                RouteTaken::Terminate | RouteTaken::Respond | RouteTaken::Forward => RouteTaken::Terminate,
            });
        }
        self.dial(Settled { outcome: Ok(route), observed: None, rule: rule.cloned() }, contact)
    }

    /// What `observe` relaxed goes its way.
    fn let_through(&mut self, route: RouteTaken) -> Progress {
        let Some(Denial { reason, basis }) = self.relaxed.take() else { return Continue(()) };
        let note = format!("`{reason}` is recorded, and it is let through with nothing injected");
        self.put(yes(Row::Observe, "Does the policy only observe?").noting(note));
        self.dial(Settled { outcome: Ok(route), observed: Some(reason), rule: basis.rule }, &Contact::Dialled)
    }

    /// Vetting, at the moment of dialling.
    fn dial(&mut self, settled: Settled, contact: &Contact<'_>) -> Progress {
        match (contact, self.question.address) {
            (Contact::Dialled, Some(address)) => {
                let question = format!("May {address} be dialled (rows 1 and 2 again)?");
                match self.policy.vet_answer(address, self.host) {
                    Verdict::Allow(()) => self.put(yes(Row::Dial, question)),
                    Verdict::Deny(denial) => {
                        self.put(no(Row::Dial, question).by(denial.basis.rule.as_ref()));
                        return self.deny(denial);
                    }
                }
                self.settle(settled);
            }
            (Contact::Dialled, None) => {
                self.settle(settled);
                self.put(not_asked(Row::Dial, "May the address be dialled (rows 1 and 2 again)?", UNKNOWN));
            }
            (Contact::Elsewhere(host), _) => {
                self.settle(settled);
                let question = format!("May the address of `{host}` be dialled (rows 1 and 2)?");
                self.put(not_asked(Row::Dial, question, UNKNOWN));
            }
            (Contact::Nobody, _) => self.settle(settled),
        }
        Break(())
    }

    /// The last question that was asked is the one that settled it.
    fn settle(&mut self, settled: Settled) {
        if let Some(step) = self.steps.iter_mut().rev().find(|step| step.answer != Answer::NotAsked) {
            step.settles = Some(settled);
        }
    }

    fn put(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// Says more of the last step.
    fn note(&mut self, more: &str) {
        if let Some(step) = self.steps.last_mut() {
            let note = step.note.take().unwrap_or_default();
            step.note = Some(format!("{note}{more}"));
        }
    }

    fn why_allowed(&self, name: &Domain) -> String {
        match self.policy.rows_5_and_6(name) {
            Verdict::Allow(Permitted::Entry(entry)) => {
                self.policy.pattern_of(entry).map(|(pattern, _)| format!("`{pattern}`")).unwrap_or_default()
            }
            Verdict::Allow(Permitted::Mode(_)) => "the mode".to_owned(),
            Verdict::Deny(_) => String::new(),
        }
    }

    fn why_denied(&self, name: &Domain) -> String {
        self.policy.denying(name).map(|(pattern, _)| format!("`{pattern}` in `deny`")).unwrap_or_default()
    }
}

fn why_protected(address: IpAddr, Guard { reading, range }: Guard) -> String {
    let read = if reading == address { String::new() } else { format!("read as {reading}: ") };
    match range {
        None => format!("{read}it is this host's own"),
        Some(range) if is_openable(reading) => format!("{read}`{range}` is private: ranges inside it open it"),
        Some(range) => format!("{read}`{range}` is opened by the operator alone"),
    }
}

fn yes(row: Row, question: impl Into<String>) -> Step {
    Step { row, question: question.into(), answer: Answer::Yes, rule: None, note: None, settles: None }
}

fn no(row: Row, question: impl Into<String>) -> Step {
    Step { answer: Answer::No, ..yes(row, question) }
}

fn not_asked(row: Row, question: impl Into<String>, why: &str) -> Step {
    Step { answer: Answer::NotAsked, ..yes(row, question) }.noting(why)
}

impl Step {
    fn by(self, rule: Option<&RuleId>) -> Self {
        Self { rule: rule.cloned(), ..self }
    }

    fn noting(self, note: impl Into<String>) -> Self {
        Self { note: Some(note.into()).filter(|note: &String| !note.is_empty()), ..self }
    }
}
