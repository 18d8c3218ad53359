"""Operations: asked for."""

from __future__ import annotations

from fastapi import APIRouter

from mlops.api.context import Context
from mlops.api.documents import PathId
from mlops.api.operations import OperationDocument
from mlops.api.problems import list_problems
from mlops.api.strict_requests import StrictRoute

router = APIRouter(prefix="/operations", tags=["operations"], route_class=StrictRoute)


@router.get("/{operation_id}", responses=list_problems("not-found", "invalid-request"))
def get_operation(operation_id: PathId, context: Context) -> OperationDocument:
    """Work that goes on after its request was answered: how far it is, and its result.

    Where the process that worked on it has ended, the operation has failed, and says so.
    """
    return OperationDocument.of(context.manager.get_operation(operation_id))
