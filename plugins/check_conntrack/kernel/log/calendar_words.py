"""Names of months, days and zones in the languages that logs are written in.

Daemons and dmesg write times in the locale of whoever started them. The names are those of the
GNU C library's locales, short and long, in lower case and without a final dot. Languages that
give one name to different months (Croatian lipanj, srpanj, listopad) keep the month that Polish
and Czech mean by it.
"""

from __future__ import annotations

# A line for each month.
_MONTHS = """\
jan january januar janv janvier ene enero gen gennaio janeiro januari jän jänner янв января январь sty stycznia led ledna tammi tammikuuta oca ocak ian ianuarie január ιαν ιανουαρίου січ січня јан яну 一月
feb february februar févr fév février febrero febbraio fev fevereiro februari фев февр февраля lut lutego úno února helmi helmikuuta şub şubat februarie febr február φεβ φεβρουαρίου лют лютого феб 二月
mar march märz mär mrz mars marzo março marco mrt maart marts мар марта март marca bře března maalis maaliskuuta mart martie márc március μαρ μαρτίου бер березня 三月
apr april avr avril abr abril aprile kwi kwietnia dub dubna huhti huhtikuuta nis nisan апр апреля aprilie ápr április απρ απριλίου кві квітня 四月
may mai maggio mag maio mei maj maja mayo mayıs май мая kvě května touko toukokuuta máj május μαΐ μαΐου тра травня мај 五月
jun june juni juin giu giugno junio junho июн июня cze czerwca čen čvn června kesä kesäkuuta haz haziran iun iunie jún június ιούν ιουνίου чер червня јун юни 六月
jul july juli juil jui juillet lug luglio julio julho июл июля lip lipca čec čvc července heinä heinäkuuta tem temmuz iul iulie júl július ιούλ ιουλίου јул юли 七月
aug august août aoû ago agosto augustus augusti авг августа sie sierpnia srp srpna elo elokuuta ağu ağustos augusztus αυγ αυγούστου сер серпня avg 八月
sep sept september septembre set settembre septiembre setembro сен сент сентября wrz września zář září syys syyskuuta eyl eylül septembrie szept szeptember σεπ σεπτεμβρίου вер вересня 九月
oct october okt oktober octobre ott ottobre octubre out outubro окт октября paź października říj října loka lokakuuta eki ekim octombrie október οκτ οκτωβρίου жов жовтня 十月
nov november novembre noviembre novembro ноя нояб ноября лис lis listopada marras marraskuuta kas kasım noiembrie νοε νοεμβρίου листопада ное 十一月
dec december dez dezember déc décembre dic dicembre diciembre dezembro des desember дек декабря gru grudnia pro prosince joulu joulukuuta ara aralık decembrie δεκ δεκεμβρίου гру грудня 十二月
"""  # noqa: E501
_WEEKDAYS = """\
mon tue wed thu fri sat sun monday tuesday wednesday thursday friday saturday sunday
mo di mi do fr sa so lun mar mer jeu ven sam dim lundi mardi mercredi jeudi vendredi samedi dimanche
mié jue vie sáb sab dom gio seg ter qua qui sex ma wo vr za zo mån tis ons tors tor fre lör lør søn
man tir ti ke to pe la su pon wto śro śr czw pią pt sob nie ndz pn wt út st čt pá ne
пн вт ср чт пт сб вс нд paz pzt sal çar per cum cmt lu jo vi sâ du hét kedd sze csüt pén szo vas
月 火 水 木 金 土 日 一 二 三 四 五 六 월 화 수 목 금 토 일 週一 週二 週三 週四 週五 週六 週日
周一 周二 周三 周四 周五 周六 周日 星期一 星期二 星期三 星期四 星期五 星期六 星期日
月曜日 火曜日 水曜日 木曜日 金曜日 土曜日 日曜日
"""
_MORNING = "am a.m 上午 午前 오전 πμ"
_AFTERNOON = "pm p.m 下午 午後 오후 μμ"
_FILLERS = "de del d um at a klo kl à às alle of - – @ г ч год"
_AMBIGUOUS_ZONES = "IST CST BST AST GST PKT ICT PHT BRT ART CLT UYT COT PET IRST"

MONTHS = {
    name: number for number, names in enumerate(_MONTHS.splitlines(), 1) for name in names.split()
}
WEEKDAYS = frozenset(_WEEKDAYS.split())
MORNING = frozenset(_MORNING.split())
AFTERNOON = frozenset(_AFTERNOON.split())
FILLERS = frozenset(_FILLERS.split())
"""Words that stand between the parts of a date."""
AMBIGUOUS_ZONES = frozenset(_AMBIGUOUS_ZONES.split())
"""Abbreviations of zones with several meanings."""
ZONES = {
    "UTC": 0.0, "GMT": 0.0, "Z": 0.0, "UCT": 0.0, "WET": 0.0, "WEST": 1.0, "CET": 1.0,
    "CEST": 2.0, "MEZ": 1.0, "MESZ": 2.0, "EET": 2.0, "EEST": 3.0, "MSK": 3.0, "EST": -5.0,
    "EDT": -4.0, "CDT": -5.0, "MST": -7.0, "MDT": -6.0, "PST": -8.0, "PDT": -7.0, "JST": 9.0,
    "KST": 9.0, "HKT": 8.0, "SGT": 8.0, "AEST": 10.0, "AEDT": 11.0, "ACST": 9.5, "AWST": 8.0,
    "NZST": 12.0, "NZDT": 13.0, "SAST": 2.0, "EAT": 3.0, "NPT": 5.75, "WIB": 7.0,
}  # fmt: skip
"""Hours east of UTC of abbreviations with one meaning."""
