"""The STAC API over a :class:`Library`: stac-fastapi's protocol, our search.

Everything of the protocol (landing page, conformance, OpenAPI, request models) is stac-fastapi's; this module turns its
requests into queries and pages of ready-made JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, cast

import attr
from cql2 import Expr
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, Field
from shapely.errors import ShapelyError
from shapely.geometry.base import BaseGeometry
from stac_fastapi.api.app import StacApi
from stac_fastapi.api.models import (
    ItemCollectionUri,
    create_get_request_model,
    create_post_request_model,
    create_request_model,
)
from stac_fastapi.extensions import (
    FieldsExtension,
    FilterExtension,
    QueryExtension,
    SortExtension,
    TokenPaginationExtension,
)
from stac_fastapi.extensions.filter.client import BaseFiltersClient
from stac_fastapi.types import stac
from stac_fastapi.types.config import ApiSettings
from stac_fastapi.types.core import BaseCoreClient
from stac_fastapi.types.errors import NotFoundError
from stac_fastapi.types.rfc3339 import str_to_interval
from stac_fastapi.types.search import APIRequest, BaseSearchPostRequest
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from pipelines.sandbox.library import BASE, Library, Query, bbox_area, parse_area


class _FilterPost(BaseModel):
    """POST body of the filter extension; unlike the library's, it takes CQL2 text too."""

    filter_expr: dict[str, Any] | str | None = Field(None, alias="filter")
    filter_crs: str | None = Field(None, alias="filter-crs")
    filter_lang: Literal["cql2-json", "cql2-text"] | None = Field(None, alias="filter-lang")


@attr.s
class _Filter(FilterExtension):
    POST = _FilterPost


@attr.s
class _Queryables(BaseFiltersClient):
    library: Library = attr.ib(kw_only=True)

    def get_queryables(self, collection_id: str | None = None, **kwargs: Any) -> dict[str, Any]:
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": str(kwargs["request"].url),
            "type": "object",
            "title": "Queryables",
            "properties": self.library.queryables(collection_id),
        }


@attr.s
class LibraryClient(BaseCoreClient):
    """stac-fastapi's core operations answered from memory."""

    library: Library = attr.ib(kw_only=True)

    def all_collections(self, **kwargs: Any) -> stac.Collections:
        base = _base(kwargs["request"])
        return stac.Collections(
            collections=[self._collection(name, base) for name in self.library.collections],
            links=[
                {"rel": "root", "type": "application/json", "href": f"{base}/"},
                {"rel": "self", "type": "application/json", "href": f"{base}/collections"},
            ],
        )

    def get_collection(self, collection_id: str, **kwargs: Any) -> stac.Collection:
        if collection_id not in self.library.collections:
            raise NotFoundError(f"Collection {collection_id} not found")
        return self._collection(collection_id, _base(kwargs["request"]))

    # The library allows a ready response in place of its typed dicts, although its annotations do not say so.
    def get_item(self, item_id: str, collection_id: str, **kwargs: Any) -> Response:  # type: ignore[override]
        position = self.library.position.get((collection_id, item_id))
        if position is None:
            raise NotFoundError(f"Item {item_id} in collection {collection_id} not found")
        return _geojson(self.library.bodies[position], _base(kwargs["request"]))

    def item_collection(  # type: ignore[override]
        self,
        collection_id: str,
        bbox: Sequence[float] | None = None,
        datetime: str | None = None,
        limit: int | None = 10,
        token: str | None = None,
        **kwargs: Any,
    ) -> Response:
        if collection_id not in self.library.collections:
            raise NotFoundError(f"Collection {collection_id} not found")
        return self.get_search([collection_id], bbox=bbox, datetime=datetime, limit=limit, token=token, **kwargs)

    def get_search(  # type: ignore[override]
        self,
        collections: list[str] | None = None,
        ids: list[str] | None = None,
        bbox: Sequence[float] | None = None,
        intersects: str | None = None,
        datetime: str | None = None,
        limit: int | None = 10,
        **kwargs: Any,
    ) -> Response:
        request: Request = kwargs["request"]
        if bbox and intersects:
            raise HTTPException(400, "bbox and intersects exclude each other")
        text = kwargs.get("query")
        query = Query(
            collections=collections or None,
            ids=ids or None,
            area=_area(bbox, intersects),
            span_ms=_span_ms(datetime),
            filter=_expression(kwargs.get("filter_expr"), kwargs.get("filter_lang")),
            query=_json(text, "query") if text else {},
            sortby=[(field.lstrip("+-"), not field.startswith("-")) for field in kwargs.get("sortby") or []],
        )
        fields = kwargs.get("fields") or []
        include = {field.removeprefix("+") for field in fields if not field.startswith("-")}
        exclude = {field[1:] for field in fields if field.startswith("-")}
        start = _offset(kwargs.get("token"))
        body, following = self._page(query, start, limit or 10, include, exclude)
        links = [{"rel": "self", "type": "application/geo+json", "href": str(request.url)}]
        if following is not None:
            href = str(request.url.include_query_params(token=f"next:{following}", limit=limit or 10))
            links.append({"rel": "next", "type": "application/geo+json", "method": "GET", "href": href})
        return _collection_response(body, links, _base(request))

    def post_search(  # type: ignore[override]
        self, search_request: BaseSearchPostRequest, **kwargs: Any
    ) -> Response:
        request: Request = kwargs["request"]
        asked: Any = search_request
        intersects = asked.intersects.model_dump(mode="json") if asked.intersects else None
        query = Query(
            collections=asked.collections or None,
            ids=asked.ids or None,
            area=_area(asked.bbox, intersects),
            span_ms=_span_ms(asked.datetime),
            filter=_expression(asked.filter_expr, asked.filter_lang),
            query=asked.query or {},
            sortby=[(order.field, order.direction == "asc") for order in asked.sortby or []],
        )
        include = set(asked.fields.include or ()) if asked.fields else set()
        exclude = set(asked.fields.exclude or ()) if asked.fields else set()
        body, following = self._page(query, _offset(asked.token), asked.limit or 10, include, exclude)
        url = str(request.url)
        links: list[dict[str, Any]] = [{"rel": "self", "type": "application/geo+json", "href": url}]
        if following is not None:
            again = asked.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
            again |= {"token": f"next:{following}"}
            links.append({"rel": "next", "type": "application/geo+json", "method": "POST", "href": url, "body": again})
        return _collection_response(body, links, _base(request))

    def _page(
        self, query: Query, start: int, limit: int, include: set[str], exclude: set[str]
    ) -> tuple[dict[str, Any], int | None]:
        try:
            found = self.library.find(query)
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        page = [self.library.bodies[i] for i in found[start : start + limit]]
        if include or exclude:
            page = [json.dumps(select_fields(json.loads(body), include, exclude)).encode() for body in page]
        following = start + limit if start + limit < len(found) else None
        return {"features": page, "numberMatched": len(found), "numberReturned": len(page)}, following

    def _collection(self, name: str, base: str) -> stac.Collection:
        own = self.library.collections[name]
        here = f"{base}/collections/{name}"
        links = [
            {"rel": "self", "type": "application/json", "href": here},
            {"rel": "root", "type": "application/json", "href": f"{base}/"},
            {"rel": "parent", "type": "application/json", "href": f"{base}/"},
            {"rel": "items", "type": "application/geo+json", "href": f"{here}/items"},
            *(link for link in own.get("links", []) if str(link.get("href", "")).startswith(("http:", "https:"))),
        ]
        return cast(stac.Collection, {**own, "links": links})


def build_api(library: Library) -> FastAPI:
    """The application that answers STAC requests about a library."""
    token = TokenPaginationExtension()
    extensions = [
        _Filter(client=_Queryables(library=library)),
        token,
        # The 1.1 classes of the library are unknown to pystac-client 0.9, which then warns and sorts nothing.
        SortExtension(conformance_classes=["https://api.stacspec.org/v1.0.0/item-search#sort"]),
        FieldsExtension(),
        QueryExtension(),
    ]
    items_request = create_request_model("Items", base_model=ItemCollectionUri, extensions=[token])
    name = library.catalog["id"]
    settings = ApiSettings(
        stac_fastapi_title=library.catalog.get("title") or name,
        stac_fastapi_description=library.catalog.get("description") or name,
        stac_fastapi_version="1",
        stac_fastapi_landing_id=name,
    )
    api = StacApi(
        settings=settings,
        client=LibraryClient(library=library, landing_page_id=name),
        extensions=extensions,
        search_get_request_model=create_get_request_model(extensions),
        search_post_request_model=create_post_request_model(extensions),
        items_get_request_model=cast(type[APIRequest], items_request),
        # No Brotli: pages go over loopback, and compressing costs more than sending.
        middlewares=[Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["OPTIONS", "POST", "GET", "HEAD"])],
    )
    return api.app


def select_fields(item: dict[str, Any], include: set[str], exclude: set[str]) -> dict[str, Any]:
    """An item with the fields extension applied; ids always stay."""
    if include:
        chosen: dict[str, Any] = {}
        for path in include | {"type", "id", "collection"}:
            value: Any = item
            parts = path.split(".", 1)
            for part in parts:
                value = value.get(part) if isinstance(value, dict) else None
            if value is None:
                continue
            if len(parts) == 1:
                chosen[path] = {**value, **chosen.get(path, {})} if isinstance(value, dict) else value
            else:
                chosen.setdefault(parts[0], {})[parts[1]] = value
        item = chosen
    for path in exclude - {"id", "type"}:
        parent, _, child = path.partition(".")
        if child and isinstance(item.get(parent), dict):
            item[parent].pop(child, None)
        elif not child:
            item.pop(parent, None)
    return item


def _base(request: Request) -> str:
    return str(request.base_url).rstrip("/")


def _geojson(body: bytes, base: str) -> Response:
    return Response(body.replace(BASE.encode(), base.encode()), media_type="application/geo+json")


def _collection_response(page: dict[str, Any], links: list[dict[str, Any]], base: str) -> Response:
    rest = {"type": "FeatureCollection", "links": links, **{k: v for k, v in page.items() if k != "features"}}
    head = json.dumps(rest).encode()
    return _geojson(head[:-1] + b',"features":[' + b",".join(page["features"]) + b"]}", base)


def _area(bbox: Sequence[float] | None, intersects: Any) -> BaseGeometry | None:
    if intersects:
        try:
            return parse_area(intersects)
        except (ShapelyError, ValueError) as error:
            raise HTTPException(400, f"intersects is not a GeoJSON geometry: {error}") from error
    return bbox_area(bbox) if bbox else None


def _span_ms(text: str | None) -> tuple[int | None, int | None]:
    interval = str_to_interval(text)
    first, last = interval if isinstance(interval, tuple) else (interval, interval)
    first_ms, last_ms = (None if moment is None else round(moment.timestamp() * 1000) for moment in (first, last))
    return first_ms, last_ms


def _expression(text: Any, language: str | None) -> Expr | None:
    if not text:
        return None
    try:
        if isinstance(text, str) and (language == "cql2-json" or text.lstrip().startswith("{")):
            text = json.loads(text)
        expression = Expr(text)
        expression.validate()
    except Exception as error:  # cql2's parser raises its own classes and plain Exception
        raise HTTPException(400, f"filter is not CQL2: {error}") from error
    return expression


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise HTTPException(400, f"{name} is not JSON: {error}") from error


def _offset(token: str | None) -> int:
    if not token:
        return 0
    name, _, number = token.partition(":")
    if name != "next" or not number.isdigit():
        raise HTTPException(400, f"token {token!r} was not given by this server")
    return int(number)
