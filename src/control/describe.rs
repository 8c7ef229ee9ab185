//! The OpenAPI description of the API, made of the handlers that serve it.
//!
//! A route is added with its handler, and what the handler takes and returns describes itself: its parts of a request
//! are [`Input`]s, its answers [`Output`]s, their forms are the types that are read and written. So no route, schema or
//! status is told twice, and the description cannot differ from what serves. (`utoipa`, which is usual for this,
//! wants answers written again in an attribute, and handlers without type parameters.)

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::routing::{MethodFilter, on};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::action::Act;
use super::answer::{ErrorForm, Refused};

/// Where schemas that have a name stand.
pub(super) const SCHEMAS: &str = "/components/schemas";

/// What almost everything is told in.
pub(super) const JSON: &str = "application/json";

/// Query parameters that clients of the reference product send with every call, and that mean nothing here.
const SCOPE: [&str; 3] = ["teamId", "projectId", "slug"];

/// Routes and their description.
pub(super) struct Api<A> {
    routes: Router<Arc<A>>,
    paths: BTreeMap<&'static str, Map<String, Value>>,
    schemas: Schemas,
}

impl<A: Act> Api<A> {
    pub(super) fn new() -> Self {
        Self { routes: Router::new(), paths: BTreeMap::new(), schemas: Schemas::new() }
    }

    pub(super) fn get<T: 'static, H>(self, path: &'static str, about: &str, handler: H) -> Self
    where
        H: Handler<T, Arc<A>> + Described<T>,
    {
        self.add((MethodFilter::GET, "get"), path, about, handler)
    }

    pub(super) fn post<T: 'static, H>(self, path: &'static str, about: &str, handler: H) -> Self
    where
        H: Handler<T, Arc<A>> + Described<T>,
    {
        self.add((MethodFilter::POST, "post"), path, about, handler)
    }

    pub(super) fn put<T: 'static, H>(self, path: &'static str, about: &str, handler: H) -> Self
    where
        H: Handler<T, Arc<A>> + Described<T>,
    {
        self.add((MethodFilter::PUT, "put"), path, about, handler)
    }

    pub(super) fn patch<T: 'static, H>(self, path: &'static str, about: &str, handler: H) -> Self
    where
        H: Handler<T, Arc<A>> + Described<T>,
    {
        self.add((MethodFilter::PATCH, "patch"), path, about, handler)
    }

    pub(super) fn delete<T: 'static, H>(self, path: &'static str, about: &str, handler: H) -> Self
    where
        H: Handler<T, Arc<A>> + Described<T>,
    {
        self.add((MethodFilter::DELETE, "delete"), path, about, handler)
    }

    fn add<T: 'static, H>(
        mut self,
        (filter, method): (MethodFilter, &str),
        path: &'static str,
        about: &str,
        handler: H,
    ) -> Self
    where
        H: Handler<T, Arc<A>> + Described<T>,
    {
        let mut operation = Operation::new(&mut self.schemas);
        H::describe(&mut operation);
        if path.starts_with("/v") {
            let scope = SCOPE.map(|name| json!({ "$ref": format!("#/components/parameters/{name}") }));
            operation.parameters.extend(scope);
        }
        let described = operation.into_json(method, path, about);
        self.paths.entry(path).or_default().insert(method.to_owned(), described);
        self.routes = self.routes.route(path, on(filter, handler));
        self
    }

    /// The routes, and the document that describes them.
    pub(super) fn finish(self) -> (Router<Arc<A>>, Value) {
        let Self { routes, paths, mut schemas } = self;
        let error = schemas.told.subschema_for::<ErrorForm>().to_value();
        let refusal = |about: &str| json!({ "description": about, "content": { JSON: { "schema": error } } });
        let refusals: BTreeMap<&str, Value> =
            Refused::STATUSES.iter().map(|(status, about)| (status.as_str(), refusal(about))).collect();
        let about = "For clients that send it; it means nothing here.";
        let scope = |name| json!({ "name": name, "in": "query", "description": about, "schema": { "type": "string" } });
        let scope: BTreeMap<&str, Value> = SCOPE.iter().map(|name| (*name, scope(name))).collect();
        let document = json!({
            "openapi": "3.1.0",
            "info": {
                "title": "exeat control API",
                "version": "1",
                "description": "Sandboxes and what they may reach. An answer is true when it is given: the change that \
                    it tells of is in force, also for what was open before.",
            },
            "servers": [{ "url": "/" }, { "url": "/api" }],
            "security": [{}, { "bearer": [] }],
            "paths": paths,
            "components": {
                "parameters": scope,
                "responses": refusals,
                "schemas": schemas.into_json(),
                "securitySchemes": {
                    "bearer": { "type": "http", "scheme": "bearer", "description": "On TCP alone." },
                },
            },
        });
        (routes, document)
    }
}

/// A handler that describes itself; `T` is what axum tells handlers apart by.
pub(super) trait Described<T> {
    fn describe(operation: &mut Operation<'_>);
}

/// A part of a request.
pub(super) trait Input {
    fn describe(operation: &mut Operation<'_>);
}

/// What a handler may answer.
pub(super) trait Output {
    fn describe(operation: &mut Operation<'_>);
}

impl Output for Infallible {
    fn describe(_: &mut Operation<'_>) {}
}

macro_rules! described {
    ($($input:ident)*) => {
        impl<H, F, M, $($input),*> Described<(M, $($input,)*)> for H
        where
            H: Fn($($input),*) -> F,
            F: Future,
            F::Output: Output,
            $($input: Input,)*
        {
            fn describe(operation: &mut Operation<'_>) {
                $($input::describe(operation);)*
                F::Output::describe(operation);
            }
        }
    };
}

described! {}
described! { A }
described! { A B }
described! { A B C }
described! { A B C D }
described! { A B C D E }

/// The forms of what is asked and of what is told.
struct Schemas {
    asked: SchemaGenerator,
    told: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = SCHEMAS.into();
                settings.meta_schema = None;
            })
        };
        Self { asked: settings().for_deserialize().into_generator(), told: settings().for_serialize().into_generator() }
    }

    fn into_json(mut self) -> Value {
        let mut all = self.asked.take_definitions(true);
        for (name, schema) in self.told.take_definitions(true) {
            let other = all.insert(name.clone(), schema);
            debug_assert!(other.is_none_or(|other| Some(&other) == all.get(&name)), "two forms are called {name}");
        }
        Value::Object(all)
    }
}

/// One method of one path, as it describes itself.
pub(super) struct Operation<'s> {
    schemas: &'s mut Schemas,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: BTreeMap<String, Value>,
}

impl<'s> Operation<'s> {
    fn new(schemas: &'s mut Schemas) -> Self {
        let mut operation = Self { schemas, parameters: Vec::new(), body: None, answers: BTreeMap::new() };
        operation.refusal(StatusCode::UNAUTHORIZED);
        operation
    }

    /// The schema of something that is told.
    pub(super) fn told<T: JsonSchema>(&mut self) -> Value {
        self.schemas.told.subschema_for::<T>().to_value()
    }

    /// Adds an answer.
    pub(super) fn answer(&mut self, status: StatusCode, media: &str, schema: Value, headers: &[(&str, Value)]) {
        let mut answer = json!({
            "description": status.canonical_reason().unwrap_or_default(),
            "content": { media: { "schema": schema } },
        });
        if let (false, Value::Object(answer)) = (headers.is_empty(), &mut answer) {
            let headers: Map<String, Value> =
                headers.iter().map(|(name, it)| ((*name).to_owned(), it.clone())).collect();
            answer.insert("headers".into(), Value::Object(headers));
        }
        self.answers.insert(status.as_str().to_owned(), answer);
    }

    /// Adds a refusal, of [`Refused::STATUSES`].
    pub(super) fn refusal(&mut self, status: StatusCode) {
        let status = status.as_str();
        self.answers.insert(status.to_owned(), json!({ "$ref": format!("#/components/responses/{status}") }));
    }

    /// Adds a part of the path.
    pub(super) fn in_path(&mut self, name: &str, schema: Value) {
        self.parameters.push(json!({ "name": name, "in": "path", "required": true, "schema": schema }));
        self.refusal(StatusCode::NOT_FOUND);
    }

    /// Adds every field of a form as a parameter of the query.
    pub(super) fn in_query<T: JsonSchema>(&mut self) {
        let mut form = T::json_schema(&mut self.schemas.asked).to_value();
        let required = form.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        let Some(Value::Object(fields)) = form.get_mut("properties").map(Value::take) else { return };
        for (name, schema) in fields {
            let required = required.iter().any(|required| *required == *name);
            let mut schema = without_null(schema);
            let mut parameter = json!({ "name": name, "in": "query", "required": required });
            if let (Value::Object(parameter), Value::Object(schema)) = (&mut parameter, &mut schema) {
                parameter.extend(schema.remove("description").map(|about| ("description".to_owned(), about)));
                parameter.insert("schema".into(), json!(schema));
            }
            self.parameters.push(parameter);
        }
        self.refusal(StatusCode::BAD_REQUEST);
    }

    /// Adds `If-Match`.
    pub(super) fn condition(&mut self) {
        self.parameters.push(json!({
            "name": "If-Match",
            "in": "header",
            "description": "Revisions of which one must be in force, as `ETag` gives them (RFC 9110 §13.1.1).",
            "schema": { "type": "string" },
        }));
        self.refusal(StatusCode::BAD_REQUEST);
        self.refusal(StatusCode::CONFLICT);
    }

    /// Adds the body.
    pub(super) fn body<T: JsonSchema>(&mut self, required: bool) {
        let schema = self.schemas.asked.subschema_for::<T>().to_value();
        self.body = Some(json!({ "required": required, "content": { JSON: { "schema": schema } } }));
        self.refusal(StatusCode::BAD_REQUEST);
        self.refusal(StatusCode::PAYLOAD_TOO_LARGE);
    }

    fn into_json(self, method: &str, path: &str, about: &str) -> Value {
        let Self { schemas: _, parameters, body, answers } = self;
        let words: Vec<&str> =
            path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
        let mut operation = json!({
            "operationId": format!("{method}_{}", words.join("_")),
            "summary": about,
            "parameters": parameters,
            "responses": answers,
        });
        if let (Some(body), Value::Object(operation)) = (body, &mut operation) {
            operation.insert("requestBody".into(), body);
        }
        operation
    }
}

/// A schema of something optional, for where leaving it out says that it is not there.
fn without_null(mut schema: Value) -> Value {
    if let Some(types) = schema.get_mut("type") {
        let kept = types.as_array().and_then(|types| types.iter().find(|one| *one != "null")).cloned();
        if let Some(kept) = kept {
            *types = kept;
        }
    }
    let Some(Value::Array(mut choices)) = schema.get_mut("anyOf").map(Value::take) else { return schema };
    choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
    match (&mut schema, choices.pop()) {
        (Value::Object(map), Some(Value::Object(only))) if choices.is_empty() => {
            map.remove("anyOf");
            map.extend(only);
        }
        (Value::Object(map), only) => {
            choices.extend(only);
            map.insert("anyOf".into(), Value::Array(choices));
        }
        _ => {}
    }
    schema
}
