"""Lines that a program for texts has to bear: fifty languages, and what terminals obey."""

# What the weather, the dog, or the river does, in the words of the language.
LANGUAGES = [
    *("The river is cold.", "Der Fluss ist kühl.", "L'été, la rivière est froide."),
    *(
        "¿Dónde está el niño?",
        "O cão não dorme.",
        "Il cane è già qui.",
        "Câinele aleargă în ploaie.",
    ),
    *("El gos ja no hi és.", "De hond slaapt niet.", "Hunden sover på ön.", "Hunden løber på øen."),
    *("Áin er köld í dag.", "Joki on kylmä tänään.", "Jõgi on täna külm.", "Upe šodien ir auksta."),
    *(
        "Upė šiandien šalta.",
        "Rzeka jest dziś zimna.",
        "Řeka je dnes studená.",
        "Rieka je dnes studená.",
    ),
    *(
        "A folyó ma hideg.",
        "Reka je danes mrzla.",
        "Rijeka je danas hladna.",
        "Река је данас хладна.",
    ),
    *("Реката днес е студена.", "Река сегодня холодная.", "Річка сьогодні холодна."),
    *("Το ποτάμι είναι κρύο σήμερα.", "Nehir bugün soğuk.", "Çay bu gün soyuqdur."),
    *("Өзен бүгін суық.", "მდინარე დღეს ცივია.", "Գետը այսօր սառն է.", "הנהר קר היום."),
    *("النهر بارد اليوم.", "رودخانه امروز سرد است و می\u200cخروشد.", "دریا آج ٹھنڈا ہے۔"),
    *("नदी आज ठंडी है।", "নদী আজ ঠান্ডা।", "નદી આજે ઠંડી છે.", "ਨਦੀ ਅੱਜ ਠੰਢੀ ਹੈ।"),
    *("ஆறு இன்று குளிர்ச்சி.", "నది ఈరోజు చల్లగా ఉంది.", "ನದಿ ಇಂದು ತಣ್ಣಗಿದೆ."),
    *("പുഴ ഇന്ന് തണുത്തതാണ്.", "ගඟ අද සීතලයි.", "แม่น้ำวันนี้เย็น", "ແມ່ນ້ຳມື້ນີ້ເຢັນ"),
    *("ទន្លេត្រជាក់ថ្ងៃនេះ", "မြစ်က ဒီနေ့ အေးတယ်။", "གཙང་པོ་དེ་རིང་གྲང་མོ་འདུག", "Гол өнөөдөр хүйтэн байна."),
    *("河水今天很冷。", "川は今日冷たい。", "강이 오늘 차갑다.", "Hôm nay sông lạnh."),
    *(
        "Sungai dingin hari ini.",
        "Mto ni baridi leo.",
        "ወንዙ ዛሬ ቀዝቃዛ ነው።",
        "Tá an abhainn fuar inniu.",
    ),
]
# Joined emoji, heaped accents, directions, markup, escapes, and marks that are no text.
HOSTILE = [
    *LANGUAGES,
    *("a\u202eb\u202cc", "👩‍👩‍👧‍👦🏳️‍🌈", "e\u0301\u0301", "東京\u3000大阪", "l\u00a0eau"),
    *("<script>alert(1)</script>", "[bold]no[/bold]", "\x00\x01\x1b[31m", "\x9b31m\x7f"),
    *("\ufffd is itself", "\ufeff", "a\u2028b", "1" * 50),
]
