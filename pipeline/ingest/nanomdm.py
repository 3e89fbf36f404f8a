"""Translation of NanoMDM webhooks (github.com/micromdm/nanomdm, service/webhook)."""

from datetime import datetime
from typing import Final

from pipeline.ingest.mdm_webhook import translate_webhook
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.translation import Translation

SOURCE: Final = "nanomdm"


def translate(raw: bytes, *, origin: str, received_at: datetime, redactor: Redactor) -> Translation:
    """Return the events of one webhook body, or of one bare message of a Mac.

    | topic | events |
    | --- | --- |
    | Authenticate | authenticated, inventory |
    | TokenUpdate | token_updated with NanoMDM's tally: 1 completes an enrollment |
    | CheckOut | checked_out |
    | SetBootstrapToken | bootstrap_token_set; cleared if the token is empty |
    | Connect | command_reported; inventory if the response has fields of the Mac |
    | DeclarativeManagement | ddm_status_reported for `status`, inventory (a contact) for a fetch |
    | GetBootstrapToken, GetToken | inventory (a contact) |

    The URL parameters `site` and `server` of the Mac's enrollment profile are used as hints. With a
    `site`, every topic but CheckOut gives an inventory report. User channels, other Apple products,
    unknown topics, unknown endpoints of DeclarativeManagement and messages without a device are
    dead letters, each with its own code. An invalid field is a dead letter too, and the rest is
    used, but an invalid `created_at` refuses the whole body. Raises nothing.
    """
    return translate_webhook(
        raw, source=SOURCE, origin=origin, received_at=received_at, redactor=redactor
    )
