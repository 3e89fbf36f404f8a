"""The adapter for NanoMDM and KMFDDM keeps the contract, with servers in this process."""

import pytest

from tests.contracts.mdm_server import Form, MdmServerContract
from tests.factories.sites import START
from tests.fake_mdm import SECRETS, FakeMdm

MAC = "11111111-AAAA-4000-8000-000000000001"
FOREIGN = "org.example.update"


@pytest.fixture
def form() -> Form:
    mdm, down = FakeMdm(START), FakeMdm(START, is_down=True)
    mdm.enroll(MAC)

    def add_foreign() -> str:
        mdm.declarations[FOREIGN] = {"Identifier": FOREIGN}
        mdm.sets["org.example.set"] = [FOREIGN]
        mdm.enrollment_sets.setdefault(MAC, []).append("org.example.set")
        return FOREIGN

    return Form(
        server=mdm.server(),
        wrong_login=mdm.server(key="wrong"),
        down=down.server(),
        enrollment_id=MAC,
        next_command=lambda: mdm.report(MAC, "Idle"),
        answer=lambda uuid, status: mdm.report(MAC, status, uuid),
        items=lambda: mdm.declaration_items(MAC),
        send_status=lambda report: mdm.send_status(MAC, report),
        foreign=add_foreign,
        secrets=SECRETS,
    )


class TestNanoMdm(MdmServerContract):
    """NanoMDM with KMFDDM."""
