"""Versions: looked up."""

from __future__ import annotations

from fastapi import APIRouter

from mlops.api.context import Context
from mlops.api.documents import Document, Id, Json, PathId, Utc
from mlops.api.problems import list_problems
from mlops.api.strict_requests import StrictRoute
from mlops.store import ModelVersion, Status

router = APIRouter(prefix="/models", tags=["models"], route_class=StrictRoute)


class ModelDocument(Document):
    """A version, with what its gates said and what its caller noted."""

    model_id: Id
    service: Id
    model_type: str
    symbol: str
    status: Status
    version: int
    metrics: Json
    claims_only: bool
    trained_until: Utc | None
    created_at: Utc
    report: Json | None
    notes: Json

    @classmethod
    def of(cls, row: ModelVersion) -> ModelDocument:
        return cls(
            model_id=row.model_id,
            service=row.service,
            model_type=row.model_type,
            symbol=row.symbol,
            status=row.status,
            version=row.mlflow_version,
            metrics=dict(row.metrics),
            claims_only=row.claims_only,
            trained_until=row.trained_until,
            created_at=row.created_at,
            report=None if row.report is None else dict(row.report),
            notes=dict(row.notes),
        )


@router.get("/{model_id}", responses=list_problems("not-found", "invalid-request"))
def get_model(model_id: PathId, context: Context) -> ModelDocument:
    """One version."""
    return ModelDocument.of(context.manager.get_model(model_id))
