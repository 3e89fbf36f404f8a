"""NanoMDM webhooks to events (github.com/micromdm/nanomdm, service/webhook)."""

from datetime import datetime
from typing import Final

from pipeline.ingest.mdm_webhook import translate_webhook
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.translation import Translation

SOURCE: Final = "nanomdm"


def translate(raw: bytes, *, origin: str, received_at: datetime, redactor: Redactor) -> Translation:
    """One webhook body, or one bare message of a Mac, to its events.

    | topic | events |
    | --- | --- |
    | Authenticate | authenticated, inventory |
    | TokenUpdate | token_updated with NanoMDM's tally: 1 completes an enrolment |
    | CheckOut | checked_out |
    | SetBootstrapToken | bootstrap_token_set; cleared where it is empty |
    | Connect | command_reported; inventory for what an answer says of the Mac |
    | DeclarativeManagement | ddm_status_reported for `status`; else inventory: a contact |
    | GetBootstrapToken, GetToken | inventory: a contact |

    URL parameters `site` and `server` of the Mac's enrolment profile are taken as hints. User
    channels, other Apple products and unknown topics are dead letters of their own codes; so is
    every field that cannot be read, while the rest is used. Raises nothing.
    """
    return translate_webhook(
        raw, source=SOURCE, origin=origin, received_at=received_at, redactor=redactor
    )
