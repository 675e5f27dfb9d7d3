"""TemplateService. Each RPC makes four moves: check, authorise, call, answer."""

from sessiond.v1.template_service_pb2 import (
    DeleteTemplateRequest,
    DeleteTemplateResponse,
    GetTemplateRequest,
    ListTemplatesRequest,
    ListTemplatesResponse,
    PutTemplateRequest,
    Template,
)
from sessiond_server.auth import SESSIONS_READ, SESSIONS_WRITE
from sessiond_server.domain.templates.rules import TemplateRequest
from sessiond_server.errors import TemplateNotFound
from sessiond_server.rpc.call import Call
from sessiond_server.rpc.paging import PageTokens
from sessiond_server.rpc.templates import checks as requests
from sessiond_server.store.templates import TemplateStore


class TemplateServicer:
    """The RPCs of sessiond.v1.TemplateService."""

    def __init__(self, templates: TemplateStore, tokens: PageTokens) -> None:
        self._templates = templates
        self._tokens = tokens

    async def get_template(self, request: GetTemplateRequest, call: Call) -> bytes:
        requests.get_template(request)
        scope = call.admit(SESSIONS_READ)
        template = await self._templates.get_template(scope, request.template_id)
        if template is None:
            raise TemplateNotFound(request.template_id)
        return template

    async def put_template(self, request: PutTemplateRequest, call: Call) -> bytes:
        expected = requests.put_template(request, call.scope)
        scope = call.admit(SESSIONS_WRITE)
        identity = TemplateRequest(*call.identity(request))
        return await self._templates.put_template(scope, request.template, expected, identity)

    async def list_templates(self, request: ListTemplatesRequest, call: Call) -> bytes:
        limit = requests.list_templates(request)
        scope = call.admit(SESSIONS_READ)
        tokens = self._tokens.of(scope, call.method.path)
        position = tokens.open(request.page_token)
        after = str(position[0]) if position else ""
        page = await self._templates.list_templates(scope, after=after, limit=limit)
        token = tokens.seal([page.next_id]) if page.next_id else ""
        templates = [Template.FromString(body) for body in page.templates]
        return ListTemplatesResponse(templates=templates, next_page_token=token).SerializeToString()

    async def delete_template(self, request: DeleteTemplateRequest, call: Call) -> bytes:
        requests.delete_template(request, call.scope)
        scope = call.admit(SESSIONS_WRITE)
        identity = TemplateRequest(*call.identity(request))
        expected = request.expected_version
        version = await self._templates.delete_template(scope, request.template_id, expected, identity)
        return DeleteTemplateResponse(version=version).SerializeToString()
