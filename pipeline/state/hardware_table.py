"""Table of Mac models: chip, first and last macOS major, name, device id. Data only.

From two public sources. Where they disagree on the last macOS major, the table has the lower one,
which agrees with Apple's support pages (MacBookPro13,1: 12, not 13; iMac15,1: 11, not 12):
- github.com/macadmins/sofa ba13ce9fb247, v2/macos_data_feed.json and the model list: identifiers,
  names, majors 12 to 26, device ids of Apple silicon;
- github.com/dortania/OpenCore-Legacy-Patcher b9df76ebdf3e, datasets/smbios_data.py: board ids, T2
  ids, ceilings of Intel models. SOFA's own board ids are wrong for most of these.
T1 models are those in Apple's list of Macs with a Touch Bar that have no T2.
"""

from enum import StrEnum
from typing import Final, NamedTuple


class HardwareClass(StrEnum):
    """Kinds of Macs that differ in how they are updated and reinstalled."""

    INTEL = "intel"
    T1 = "t1"
    T2 = "t2"
    APPLE_SILICON = "apple_silicon"
    VM = "vm"
    UNKNOWN = "unknown"


_INTEL_CHIPS: Final = frozenset({HardwareClass.INTEL, HardwareClass.T1, HardwareClass.T2})


class Model(NamedTuple):
    """One model. `first_major` 12 means 12 or older: SOFA's feed begins with macOS 12.

    `device_id` is the SoftwareUpdateDeviceID: `J...AP` with a T2 or Apple silicon, else the board.
    """

    hardware: HardwareClass
    first_major: int
    last_major: int
    name: str
    device_id: str

    @property
    def is_intel(self) -> bool:
        """True for an Intel Mac, with a T1 or T2 too, or an Intel VM.

        macOS 26 is the last version for Intel.
        """
        return self.hardware in _INTEL_CHIPS or self.device_id == "VMM-x86_64"


FIRST_MAJOR_IN_FEED: Final = 12
NEWEST_MAJOR: Final = 26

AS: Final = HardwareClass.APPLE_SILICON
INTEL: Final = HardwareClass.INTEL
T1: Final = HardwareClass.T1
T2: Final = HardwareClass.T2
VM: Final = HardwareClass.VM

# The hardware that `asr` can restore. T2 and Apple silicon have no NetBoot and do not boot from
# another volume without a person.
RESTORED_BY_ASR: Final = frozenset({INTEL, T1})

MODELS: Final[dict[str, Model]] = {
    "Mac13,1": Model(AS, 12, 26, "Mac Studio (M1 Max)", "J375cAP"),
    "Mac13,2": Model(AS, 12, 26, "Mac Studio (M1 Ultra)", "J375dAP"),
    "Mac14,2": Model(AS, 12, 26, "MacBook Air (M2, 2022)", "J413AP"),
    "Mac14,3": Model(AS, 13, 26, "Mac mini (M2, 2023)", "J473AP"),
    "Mac14,5": Model(AS, 13, 26, "MacBook Pro (14-inch, M2 Max, 2023)", "J414cAP"),
    "Mac14,6": Model(AS, 13, 26, "MacBook Pro (16-inch, M2 Max, 2023)", "J416cAP"),
    "Mac14,7": Model(AS, 12, 26, "MacBook Pro (13-inch, M2, 2022)", "J493AP"),
    "Mac14,8": Model(AS, 13, 26, "Mac Pro (Rack, 2023)", "J180dAP"),
    "Mac14,9": Model(AS, 13, 26, "MacBook Pro (14-inch, M2 Pro, 2023)", "J414sAP"),
    "Mac14,10": Model(AS, 13, 26, "MacBook Pro (16-inch, M2 Pro, 2023)", "J416sAP"),
    "Mac14,12": Model(AS, 13, 26, "Mac mini (M2 Pro, 2023)", "J474sAP"),
    "Mac14,13": Model(AS, 13, 26, "Mac Studio (M2 Max, 2023)", "J475cAP"),
    "Mac14,14": Model(AS, 13, 26, "Mac Studio (M2 Ultra, 2023)", "J475dAP"),
    "Mac14,15": Model(AS, 13, 26, "MacBook Air (15-inch, M2, 2023)", "J415AP"),
    "Mac15,3": Model(AS, 13, 26, "MacBook Pro (14-inch, M3, Nov 2023)", "J504AP"),
    "Mac15,4": Model(AS, 13, 26, "iMac (24-inch, M3, 2023, Two Ports)", "J433AP"),
    "Mac15,5": Model(AS, 13, 26, "iMac (24-inch, M3, 2023, Four Ports)", "J434AP"),
    "Mac15,6": Model(AS, 14, 26, "MacBook Pro (14-inch, M3 Pro, Nov 2023)", "J514sAP"),
    "Mac15,7": Model(AS, 14, 26, "MacBook Pro (16-inch, M3 Pro, Nov 2023)", "J516sAP"),
    "Mac15,8": Model(AS, 14, 26, "MacBook Pro (14-inch, 16-core M3 Max, Nov 2023)", "J514cAP"),
    "Mac15,9": Model(AS, 14, 26, "MacBook Pro (16-inch, 16-core M3 Max, Nov 2023)", "J516cAP"),
    "Mac15,10": Model(AS, 14, 26, "MacBook Pro (14-inch, 14-core M3 Max, Nov 2023)", "J514mAP"),
    "Mac15,11": Model(AS, 14, 26, "MacBook Pro (16-inch, 14-core M3 Max, Nov 2023)", "J516mAP"),
    "Mac15,12": Model(AS, 14, 26, "MacBook Air (13-inch, M3, 2024)", "J613AP"),
    "Mac15,13": Model(AS, 14, 26, "MacBook Air (15-inch, M3, 2024)", "J615AP"),
    "Mac15,14": Model(AS, 15, 26, "Mac Studio (M3 Ultra, 2025)", "J575dAP"),
    "Mac16,1": Model(AS, 15, 26, "MacBook Pro (14-inch, M4, Nov 2024)", "J604AP"),
    "Mac16,2": Model(AS, 15, 26, "iMac (24-inch, M4, 2024, Two Ports)", "J623AP"),
    "Mac16,3": Model(AS, 15, 26, "iMac (24-inch, M4, 2024, Four Ports)", "J624AP"),
    "Mac16,5": Model(AS, 15, 26, "MacBook Pro (16-inch, M4 Max, Nov 2024)", "J616cAP"),
    "Mac16,6": Model(AS, 15, 26, "MacBook Pro (14-inch, M4 Max, Nov 2024)", "J614cAP"),
    "Mac16,7": Model(AS, 15, 26, "MacBook Pro (16-inch, M4 Pro, Nov 2024)", "J616sAP"),
    "Mac16,8": Model(AS, 15, 26, "MacBook Pro (14-inch, M4 Pro, Nov 2024)", "J614sAP"),
    "Mac16,9": Model(AS, 15, 26, "Mac Studio (M4 Max, 2025)", "J575cAP"),
    "Mac16,10": Model(AS, 15, 26, "Mac mini (M4, 2024)", "J773gAP"),
    "Mac16,11": Model(AS, 15, 26, "Mac mini (M4 Pro, 2024)", "J773sAP"),
    "Mac16,12": Model(AS, 15, 26, "MacBook Air (13-inch, M4, 2025)", "J713AP"),
    "Mac16,13": Model(AS, 15, 26, "MacBook Air (15-inch, M4, 2025)", "J715AP"),
    "Mac17,2": Model(AS, 26, 26, "MacBook Pro 14-inch (M5)", "J704AP"),
    "Mac17,3": Model(AS, 26, 26, "MacBook Air (13-inch, M5)", "J813AP"),
    "Mac17,4": Model(AS, 26, 26, "MacBook Air (15-inch, M5)", "J815AP"),
    "Mac17,5": Model(AS, 26, 26, "MacBook Neo", "J700AP"),
    "Mac17,6": Model(AS, 26, 26, "MacBook Pro (16-inch, M5 Max)", "J716cAP"),
    "Mac17,7": Model(AS, 26, 26, "MacBook Pro (14-inch, M5 Max)", "J714cAP"),
    "Mac17,8": Model(AS, 26, 26, "MacBook Pro (16-inch, M5 Pro)", "J716sAP"),
    "Mac17,9": Model(AS, 26, 26, "MacBook Pro (14-inch, M5 Pro)", "J714sAP"),
    "MacBook9,1": Model(
        INTEL, 12, 12, "MacBook (Retina, 12-inch, Early 2016)", "Mac-9AE82516C7C6B903"
    ),
    "MacBook10,1": Model(INTEL, 12, 13, "MacBook (Retina, 12-inch, 2017)", "Mac-EE2EBD4B90B839A8"),
    "MacBookAir7,1": Model(
        INTEL, 12, 12, "MacBook Air (11-inch, Early 2015)", "Mac-9F18E312C5C2BF0B"
    ),
    "MacBookAir7,2": Model(
        INTEL, 12, 12, "MacBook Air (13-inch, Early 2015)", "Mac-937CB26E2E02BB01"
    ),
    "MacBookAir8,1": Model(T2, 12, 14, "MacBook Air (Retina, 13-inch, 2018)", "J140KAP"),
    "MacBookAir8,2": Model(T2, 12, 14, "MacBook Air (Retina, 13-inch, 2019)", "J140AAP"),
    "MacBookAir9,1": Model(T2, 12, 15, "MacBook Air (Retina, 13-inch, 2020)", "J230KAP"),
    "MacBookAir10,1": Model(AS, 12, 26, "MacBook Air (M1, 2020)", "J313AP"),
    "MacBookPro11,4": Model(
        INTEL, 12, 12, "MacBook Pro (Retina, 15-inch, Mid 2015)", "Mac-06F11FD93F0323C5"
    ),
    "MacBookPro11,5": Model(
        INTEL, 12, 12, "MacBook Pro (Retina, 15-inch, Mid 2015)", "Mac-06F11F11946D27C5"
    ),
    "MacBookPro12,1": Model(
        INTEL, 12, 12, "MacBook Pro (Retina, 13-inch, Early 2015)", "Mac-E43C1C25D4880AD6"
    ),
    "MacBookPro13,1": Model(
        INTEL,
        12,
        12,
        "MacBook Pro (13-inch, 2016, Two Thunderbolt 3 ports)",
        "Mac-473D31EABEB93F9B",
    ),
    "MacBookPro13,2": Model(
        T1, 12, 12, "MacBook Pro (13-inch, 2016, Four Thunderbolt 3 ports)", "Mac-66E35819EE2D0D05"
    ),
    "MacBookPro13,3": Model(T1, 12, 12, "MacBook Pro (15-inch, 2016)", "Mac-A5C67F76ED83108C"),
    "MacBookPro14,1": Model(
        INTEL,
        12,
        13,
        "MacBook Pro (13-inch, 2017, Two Thunderbolt 3 ports)",
        "Mac-B4831CEBD52A0C4C",
    ),
    "MacBookPro14,2": Model(
        T1, 12, 13, "MacBook Pro (13-inch, 2017, Four Thunderbolt 3 ports)", "Mac-CAD6701F7CEA0921"
    ),
    "MacBookPro14,3": Model(T1, 12, 13, "MacBook Pro (15-inch, 2017)", "Mac-551B86E5744E2388"),
    "MacBookPro15,1": Model(T2, 12, 15, "MacBook Pro (15-inch, 2018)", "J680AP"),
    "MacBookPro15,2": Model(
        T2, 12, 15, "MacBook Pro (13-inch, 2018, Four Thunderbolt 3 ports)", "J132AP"
    ),
    "MacBookPro15,3": Model(T2, 12, 15, "MacBook Pro (15-inch, 2019)", "J780AP"),
    "MacBookPro15,4": Model(
        T2, 12, 15, "MacBook Pro (13-inch, 2019, Two Thunderbolt 3 ports)", "J213AP"
    ),
    "MacBookPro16,1": Model(T2, 12, 26, "MacBook Pro (16-inch, 2019)", "J152FAP"),
    "MacBookPro16,2": Model(
        T2, 12, 26, "MacBook Pro (13-inch, 2020, Four Thunderbolt 3 ports)", "J214KAP"
    ),
    "MacBookPro16,3": Model(
        T2, 12, 15, "MacBook Pro (13-inch, 2020, Two Thunderbolt 3 ports)", "J223AP"
    ),
    "MacBookPro16,4": Model(T2, 12, 26, "MacBook Pro (16-inch, 2019)", "J215AP"),
    "MacBookPro17,1": Model(AS, 12, 26, "MacBook Pro (13-inch, M1, 2020)", "J293AP"),
    "MacBookPro18,1": Model(AS, 12, 26, "MacBook Pro (16-inch, M1 Pro, 2021)", "J316sAP"),
    "MacBookPro18,2": Model(AS, 12, 26, "MacBook Pro (16-inch, M1 Max, 2021)", "J316cAP"),
    "MacBookPro18,3": Model(AS, 12, 26, "MacBook Pro (14-inch, M1 Pro, 2021)", "J314sAP"),
    "MacBookPro18,4": Model(AS, 12, 26, "MacBook Pro (14-inch, M1 Max, 2021)", "J314cAP"),
    "MacPro6,1": Model(INTEL, 12, 12, "Mac Pro (Late 2013)", "Mac-F60DEB81FF30ACF6"),
    "MacPro7,1": Model(T2, 12, 26, "Mac Pro (2019)", "J160AP"),
    "MacPro7,1-Rack": Model(T2, 12, 26, "Mac Pro (Rack, 2019)", "J160AP"),
    "Macmini7,1": Model(INTEL, 12, 12, "Mac mini (Late 2014)", "Mac-35C5E08120C7EEAF"),
    "Macmini8,1": Model(T2, 12, 15, "Mac mini (2018)", "J174AP"),
    "Macmini9,1": Model(AS, 12, 26, "Mac mini (M1, Late 2020)", "J274AP"),
    "VirtualMac2,1": Model(VM, 12, 26, "Apple Virtual Machine", "VMA2MACOSAP"),
    "iMac15,1": Model(INTEL, 11, 11, "iMac (Retina 5K, 27-inch, Mid 2015)", "Mac-42FD25EABCABB274"),
    "iMac16,1": Model(INTEL, 12, 12, "iMac (21.5-inch, Late 2015)", "Mac-A369DDC4E67F1C45"),
    "iMac16,2": Model(
        INTEL, 12, 12, "iMac (Retina 4K, 21.5-inch, Late 2015)", "Mac-FFE5EF870D7BA81A"
    ),
    "iMac17,1": Model(
        INTEL, 12, 12, "iMac (Retina 5K, 27-inch, Late 2015)", "Mac-DB15BD556843C820"
    ),
    "iMac18,1": Model(INTEL, 12, 13, "iMac (21.5-inch, 2017)", "Mac-4B682C642B45593E"),
    "iMac18,2": Model(INTEL, 12, 13, "iMac (Retina 4K, 21.5-inch, 2017)", "Mac-77F17D7DA9285301"),
    "iMac18,3": Model(INTEL, 12, 13, "iMac (Retina 5K, 27-inch, 2017)", "Mac-BE088AF8C5EB4FA2"),
    "iMac19,1": Model(INTEL, 12, 15, "iMac (Retina 5K, 27-inch, 2019)", "Mac-AA95B1DDAB278B95"),
    "iMac19,2": Model(INTEL, 12, 15, "iMac (Retina 4K, 21.5-inch, 2019)", "Mac-63001698E7A34814"),
    "iMac20,1": Model(T2, 12, 26, "iMac (Retina 5K, 27-inch, 2020)", "J185AP"),
    "iMac20,2": Model(T2, 12, 26, "iMac (Retina 5K, 27-inch, 2020)", "J185FAP"),
    "iMac21,1": Model(AS, 12, 26, "iMac (24-inch, M1, 2021, Four Ports)", "J456AP"),
    "iMac21,2": Model(AS, 12, 26, "iMac (24-inch, M1, 2021, Two Ports)", "J457AP"),
    "iMacPro1,1": Model(T2, 12, 15, "iMac Pro", "J137AP"),
    "VMM-x86_64": Model(VM, 12, 26, "Virtual Machine (x86_64)", "VMM-x86_64"),
}

# Macs with a T2 also have a board id, which some sources report as the device id.
T2_BOARDS: Final[dict[str, str]] = {
    "Mac-0CFF9C7C2B63DF8D": "J230KAP",
    "Mac-1E7E29AD0135F9BC": "J780AP",
    "Mac-226CB3C6A851A671": "J140AAP",
    "Mac-27AD2F918AE68F61": "J160AP",
    "Mac-53FDB3D8DB8CA971": "J213AP",
    "Mac-5F9802EFE386AA28": "J214KAP",
    "Mac-7BA5B2D9E42DDD94": "J137AP",
    "Mac-7BA5B2DFE22DDD8C": "J174AP",
    "Mac-827FAC58A8FDFA22": "J140KAP",
    "Mac-827FB448E656EC26": "J132AP",
    "Mac-937A206F2EE63C01": "J680AP",
    "Mac-A61BADE1FDAD7B05": "J215AP",
    "Mac-AF89B6D9451A490B": "J185FAP",
    "Mac-CFF7D910A743CAAF": "J185AP",
    "Mac-E1008331FDC96864": "J152FAP",
    "Mac-E7203C0F68AA0004": "J223AP",
}

# Words of other names of a model: the size, year or chip that the table's name leaves out, and the
# years of models that Apple sold under two names (support.apple.com, "Identify your Mac").
OTHER_WORDS: Final[dict[str, str]] = {
    "Mac13,1": "2022",
    "Mac13,2": "2022",
    "Mac14,2": "13-inch",
    "Mac14,8": "m2 ultra",
    "Mac17,2": "2025",
    "Mac17,3": "2026",
    "Mac17,4": "2026",
    "Mac17,5": "13-inch a18 pro 2026",
    "Mac17,6": "2026",
    "Mac17,7": "2026",
    "Mac17,8": "2026",
    "Mac17,9": "2026",
    "MacBookAir7,2": "2017",
    "MacBookAir10,1": "13-inch",
    "MacBookPro15,1": "2019",
    "MacBookPro15,2": "2019",
    "iMacPro1,1": "2017",
}
