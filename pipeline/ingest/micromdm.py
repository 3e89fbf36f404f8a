"""Translation of MicroMDM webhooks.

Format: github.com/micromdm/micromdm, docs/user-guide/api-and-webhooks.md.

The envelope is that of NanoMDM with fewer fields. There are no `ids`: only the message itself shows
that it is of a user channel. There is no tally: a token update is not known to complete an
enrollment. `url_params` may be null. Enrollments are addressed by UDID.
"""

from datetime import datetime
from typing import Final

from pipeline.ingest.mdm_webhook import translate_webhook
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.translation import Translation

SOURCE: Final = "micromdm"


def translate(raw: bytes, *, origin: str, received_at: datetime, redactor: Redactor) -> Translation:
    """Return the events of one webhook body, or of one bare message of a Mac.

    Each topic gives the events in the table of `nanomdm.translate`, but MicroMDM sends no tally.
    User channels, other Apple products, unknown topics and messages without a device are dead
    letters, each with its own code. An invalid field is a dead letter too, and the rest is used,
    but an invalid `created_at` refuses the whole body. Raises nothing.
    """
    return translate_webhook(
        raw, source=SOURCE, origin=origin, received_at=received_at, redactor=redactor
    )
