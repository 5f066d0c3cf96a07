//! Sessions: lists, descriptions, projects and traces.

use http::Method;
use tinkers_core::Result;
use tinkers_wire::{AssignSessionProject, SessionInfo, routes};

use crate::arguments::id;
use crate::connection::Request;
use crate::{ExportSessionTrace, ListSessions, RestClient, SearchSessions};

impl RestClient {
    /// Lists the ids of the sessions, the newest session first.
    pub fn list_sessions(&self) -> ListSessions {
        ListSessions::new(self)
    }

    /// Describes a session, such as its runs and samplers.
    ///
    /// # Errors
    /// `NotFound` if there is no such session; see [`RestClient`].
    pub async fn get_session(&self, session_id: impl AsRef<str> + Send) -> Result<SessionInfo> {
        let path = routes::session(id("session_id", session_id.as_ref())?);
        let scope = Some(self.access_scope.name());
        let path = routes::with_query(path, &[("access_scope", scope)]);
        let route = "/api/v1/sessions/{session_id}";
        let request = Request::new("RestClient.get_session", Method::GET, route, path);
        self.connection.get(request).await
    }

    /// Searches sessions. The search is experimental, and not all servers have it.
    pub fn search_sessions(&self) -> SearchSessions {
        SearchSessions::new(self)
    }

    /// Moves a session to a project. A session cannot be moved out of all projects.
    ///
    /// # Errors
    /// `NotFound` if there is no such session, `PermissionDenied` if the user may not write to the project; see [`RestClient`].
    pub async fn assign_session_project(
        &self,
        session_id: impl AsRef<str> + Send,
        project_id: impl AsRef<str> + Send,
    ) -> Result<()> {
        let path = routes::session_project(id("session_id", session_id.as_ref())?);
        let body = AssignSessionProject {
            project_id: id("project_id", project_id.as_ref())?.to_owned(),
        };
        let operation = "RestClient.assign_session_project";
        let route = "/api/v1/sessions/{session_id}/project";
        let request = Request::with_body(operation, Method::PUT, route, path, &body);
        self.connection.send(request).await.map(drop)
    }

    /// Exports a trace of a session, a file in the format of Perfetto. Returns its address when the server has built it.
    pub fn export_session_trace(&self, session_id: impl Into<String>) -> ExportSessionTrace {
        ExportSessionTrace::new(self, session_id.into())
    }
}
