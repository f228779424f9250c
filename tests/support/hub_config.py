"""A configuration as behind a proxy that has identified the user: nobody else comes in, by no token either."""

import os

from jupyter_server.auth import Authorizer, IdentityProvider, User


class ProxyUser(User):
    pass


class HeaderIdentityProvider(IdentityProvider):
    async def get_user(self, handler):
        name = handler.request.headers.get("X-Forwarded-User", "")
        return ProxyUser(name) if name else None

    def identity_model(self, user):
        assert isinstance(user, ProxyUser)
        name = user.name
        more = {"initials": None, "avatar_url": None, "color": None}
        return {"username": user.username, "name": name, "display_name": name, **more}

    def is_token_authenticated(self, handler):
        return False


class OwnerOnly(Authorizer):
    async def is_authorized(self, handler, user, action, resource):
        return user.username == "owner"


c.ServerApp.identity_provider_class = HeaderIdentityProvider
c.ServerApp.authorizer_class = OwnerOnly
c.ServerApp.allow_remote_access = False
c.ServerApp.local_hostnames = ["inside.example.org"]
c.ServerApp.base_url = os.environ.get("NB_PREFIX", "/")
c.ServerApp.allow_origin = "*"
