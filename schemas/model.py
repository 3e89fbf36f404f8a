"""The base of every wire model."""

from pydantic import BaseModel, ConfigDict


class FactModel(BaseModel):
    """Frozen; fields that a newer producer added are ignored on read."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_timedelta="float")
