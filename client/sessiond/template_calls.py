"""The client's methods for templates of sessions."""

# ruff: noqa: ASYNC109 - the deadline goes to the server with the call; asyncio.timeout would only stop waiting

from sessiond.connection import Connection
from sessiond.pages import Pages
from sessiond.request_ids import new_request_id
from sessiond.v1.session_pb2 import Session
from sessiond.v1.template_service_pb2 import (
    DeleteTemplateRequest,
    GetTemplateRequest,
    ListTemplatesRequest,
    ListTemplatesResponse,
    PutTemplateRequest,
    Template,
)


class TemplateCalls:
    """TemplateService; see `Client` for what all methods have in common."""

    _connection: Connection

    async def put_template(
        self,
        template_id: str,
        session: Session,
        *,
        description: str = "",
        expected_version: int | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Template:
        """Creates or replaces a template, and returns it. `session` has the defaults of sessions that are created with
        `create_session(template_id=...)`. `expected_version` 0 means that there must be no such template, None any
        version.

        Raises TemplateVersionMismatch, TemplateLimitReached, TemplateReadOnly.
        """
        request = PutTemplateRequest(
            template=Template(template_id=template_id, description=description, session=session),
            expected_version=expected_version,
            request_id=request_id or new_request_id(),
        )
        call = self._connection.templates.PutTemplate
        return await self._connection.call(call, request, timeout, request.request_id)

    async def get_template(self, template_id: str, *, timeout: float | None = None) -> Template:
        """Returns a template. Raises TemplateNotFound."""
        request = GetTemplateRequest(template_id=template_id)
        return await self._connection.call(self._connection.templates.GetTemplate, request, timeout)

    def list_templates(
        self, *, page_size: int = 0, page_token: str = "", timeout: float | None = None
    ) -> Pages[ListTemplatesResponse, Template]:
        """Lists the templates by ascending id, for `async for`; see Pages. `page_size` 0 means 20; the maximum is 100.
        `timeout` applies to each page. Raises, when it is read: InvalidPageToken."""

        async def fetch(token: str) -> ListTemplatesResponse:
            request = ListTemplatesRequest(page_size=page_size, page_token=token)
            return await self._connection.call(self._connection.templates.ListTemplates, request, timeout)

        return Pages(fetch, lambda page: page.templates, page_token)

    async def delete_template(
        self,
        template_id: str,
        *,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> int:
        """Deletes a template, and returns its last version.

        Raises TemplateNotFound, TemplateVersionMismatch, TemplateReadOnly.
        """
        request = DeleteTemplateRequest(
            template_id=template_id,
            expected_version=expected_version,
            request_id=request_id or new_request_id(),
        )
        call = self._connection.templates.DeleteTemplate
        return (await self._connection.call(call, request, timeout, request.request_id)).version
