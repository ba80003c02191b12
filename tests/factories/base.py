"""What all factories share."""

from typing import TYPE_CHECKING, Any, TypeVar

from django.db.models import Model
from factory.django import DjangoModelFactory

Row = TypeVar("Row", bound=Model)


class RowFactory(DjangoModelFactory[Row]):
    """Makes rows of a model. For the type checker, too, calling it gives a row."""

    class Meta:
        abstract = True
        skip_postgeneration_save = True

    if TYPE_CHECKING:

        def __new__(cls, **fields: Any) -> Row: ...  # type: ignore[misc]


class ServiceFactory(RowFactory[Row]):
    """Makes rows by a service of the product: `_make` calls it."""

    class Meta:
        abstract = True

    @classmethod
    def _make(cls, **fields: Any) -> Row:
        raise NotImplementedError

    @classmethod
    def _create(cls, model_class: Any, *args: Any, **kwargs: Any) -> Row:  # noqa: ARG003
        return cls._make(**kwargs)
