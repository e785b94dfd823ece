"""National numbering plans, as far as a phone number needs them to become an international one.

Calling codes and trunk prefixes follow ITU-T E.164 and the plans its members publish. Lengths are
those of subscribers' numbers in practice; they decide only whether digits already carry their
calling code, and so lean to the short side where a plan reserves longer numbers than it hands out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# One word is a country, its calling code and the digits of its longest usual national number.
# The key lists the prefixes dialled before a national number at home, the longest first.
_BY_TRUNK: Final = {
    "": """
        AC247/5 AD376/6 AG1/10 AI1/10 AO244/9 AQ672/6 AS1/10 AW297/7 BB1/10 BF226/8 BH973/8
        BI257/8 BJ229/10 BM1/10 BN673/7 BQ599/8 BS1/10 BT975/8 BV47/8 BW267/8 BZ501/7 CA1/10
        CF236/8 CG242/9 CI225/10 CK682/5 CL56/9 CM237/9 CR506/8 CV238/7 CW599/8 CY357/8 CZ420/9
        DJ253/8 DK45/8 DM1/10 DO1/10 EE372/8 ES34/9 FJ679/7 FK500/5 FM691/7 FO298/6 GA241/8 GD1/10
        GI350/8 GL299/6 GM220/9 GN224/9 GQ240/9 GR30/10 GS500/5 GT502/8 GU1/10 GW245/9 GY592/7
        HK852/8 HM672/6 HN504/8 HT509/8 IO246/7 IS354/9 IT39/10 JM1/10 KM269/7 KN1/10 KW965/8
        KY1/10 LC1/10 LS266/8 LU352/9 LV371/8 MH692/7 ML223/8 MO853/8 MP1/10 MR222/8 MS1/10
        MT356/8 MU230/8 MV960/7 MZ258/9 NC687/6 NE227/8 NF672/6 NI505/8 NO47/8 NR674/7 NU683/7
        OM968/8 PA507/8 PF689/8 PG675/8 PL48/9 PR1/10 PT351/9 PW680/7 QA974/8 SB677/7 SC248/7
        SG65/8 SH290/5 SJ47/8 SM378/10 SN221/9 SR597/7 ST239/7 SV503/8 SX1/10 SZ268/8 TA290/4 TC1/10
        TD235/8 TG228/8 TJ992/9 TK690/7 TL670/8 TN216/8 TO676/7 TT1/10 TV688/7 UM1/10 US1/10
        UZ998/9 VA39/10 VC1/10 VG1/10 VI1/10 VU678/7 WF681/6 WS685/7
    """,
    "0": """
        AE971/9 AF93/9 AL355/9 AM374/8 AR54/11 AT43/11 AU61/9 AX358/10 AZ994/9 BA387/9 BD880/10
        BE32/9 BG359/9 BL590/9 BO591/8 BR55/11 CC61/9 CD243/9 CH41/9 CN86/11 CO57/10 CU53/8 CX61/9
        DE49/11 DZ213/9 EC593/9 EG20/10 EH212/9 ER291/7 ET251/9 FI358/10 FR33/9 GB44/10 GE995/9
        GF594/9 GG44/10 GH233/9 GP590/9 HR385/9 ID62/10 IE353/9 IL972/9 IM44/10 IN91/10 IQ964/10
        IR98/10 JE44/10 JO962/9 JP81/10 KE254/9 KG996/9 KH855/9 KI686/8 KP850/10 KR82/10 LA856/10
        LB961/8 LI423/9 LK94/9 LR231/9 LY218/9 MA212/9 MC377/9 MD373/8 ME382/8 MF590/9 MG261/9
        MK389/8 MM95/10 MN976/10 MQ596/9 MW265/9 MY60/10 NA264/9 NG234/10 NL31/9 NP977/10 NZ64/10
        PE51/9 PH63/10 PK92/10 PM508/9 PN64/9 PS970/9 PY595/9 RE262/9 RO40/9 RS381/9 RW250/9
        SA966/9 SD249/9 SE46/9 SI386/8 SK421/9 SL232/8 SO252/9 SS211/9 SY963/9 TF262/9 TH66/9
        TR90/10 TW886/9 TZ255/9 UA380/9 UG256/9 UY598/8 VE58/10 VN84/10 XK383/9 YE967/9 YT262/9
        ZA27/9 ZM260/9 ZW263/9
    """,
    "8": "KZ7/10 RU7/10 TM993/8",
    "8 0": "LT370/8",
    "80 8 0": "BY375/9",
    "06": "HU36/9",
    "044 045 01": "MX52/10",
}


@dataclass(frozen=True, slots=True)
class Plan:
    code: str
    trunks: tuple[str, ...]
    longest: int


def _plan(word: str, trunks: str) -> tuple[str, Plan]:
    numbers, _, longest = word[2:].partition("/")
    return word[:2], Plan(numbers, tuple(trunks.split()), int(longest))


PLANS: Final[dict[str, Plan]] = dict(
    sorted(_plan(word, trunks) for trunks, words in _BY_TRUNK.items() for word in words.split())
)
