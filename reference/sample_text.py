"""Text in many scripts that the small tokenizers of tests/tokenizers are trained on.

Written for this purpose and free to use. What counts is that it holds what tokenizers treat apart: scripts with and
without spaces, combining marks in both normal forms, joined emoji, numbers, code, and runs of white space.
"""

import random

ENGLISH = """
The printer on the third floor works through the night, one page after another, and nobody has to watch it.
In the morning the answers lie in a neat pile, in the order in which the questions were asked.
If the power fails at two o'clock, the work that was finished is kept, and the rest is done again.
A long letter costs more than a short one, but a short one that says nothing costs the most.
She counted the words, then the letters, then the spaces between them, and wrote down three numbers.
There were thirty birds on the wire; when the bell rang, all of them left together.
"What is the weather like?" he asked. "It's raining," she said, "and it hasn't stopped since Monday."
We've been here before, haven't we? I'd say so. They'll tell you that you're wrong, but I'm sure it's right.
The old mill at the end of the river was turned into a library, and the library was soon too small.
Bread, butter, cheese, apples, two bottles of milk and the newspaper: that was the whole list.
Every machine that is built to save time must first be understood, repaired, and explained to somebody else.
The children's map showed an island with four harbours, a mountain, and something that looked like a dog.
Nothing is as slow as a clock that you are looking at, nor as quick as one that you forgot.
The committee met again and decided that the decision of the last meeting should be decided at the next one.
Under the stones by the water there lived a frog who thought that the pond was the sea.
He bought the house because of the tree, and the tree because of its shadow in the afternoon.
Reading, writing and thinking are done with the same tool, and it gets sharper when it is used.
Internationalization and standardization are words that are longer than what they are usually meant to shorten.
Between the first station and the second there are seventeen bridges, and from each one sees the same tower.
"""

OTHERS = """
Der Zug nach Köln fährt heute von Gleis sieben, und wer früh kommt, findet überall noch schöne Plätze.
Die größte Straße der Stadt heißt Mühlenstraße; dort gibt es Brötchen, Käse und süße Äpfel.
Où est passé le garçon qui lisait près de la fenêtre ? Il a laissé son cœur, ses clés et un œuf à la coque.
L'été dernier, j'ai vu qu'aujourd'hui n'était pas l'hiver d'hier.
¿Qué pasó con el niño que vivía en la montaña? Volvió mañana, según dicen, con un pingüino pequeño.
A manhã começa cedo: pão, café e três maçãs não são refeição, são intenção.
Zażółć gęślą jaźń, powiedział mąż, a żona włączyła światło w łazience.
Příští týden přijede děda; přiveze hrušky, švestky a žlutý džbán.
Gözlüklü çocuk ışığı söndürdü, İzmir'e giden gemiyi bekledi.
Hôm nay trời đẹp quá, chúng tôi ngồi dưới bóng cây và uống trà nóng.
Jó reggelt kívánok, mondta az öreg, és bekötötte a két cipőfűzőt.
Утром на станции было тихо, только часы шли, и старик читал вчерашнюю газету.
Вечером поезд вернулся, привёз письма, яблоки и новый год.
Зараз їхати ще рано, сказала вона, їжа ще не готова, ґанок не підметено.
Το πρωί η θάλασσα ήταν ήσυχη και ο ψαράς μέτρησε τα δίχτυα του ένα ένα.
Առավոտյան քաղաքը լուռ էր, միայն ժամացույցն էր խոսում։
დილით ქალაქი ჩუმად იყო, მხოლოდ საათი ლაპარაკობდა.
בבוקר היה שקט בתחנה, והזקן קרא את העיתון של אתמול. שָׁלוֹם לְכֻלָּם.
في الصباح كانت المحطة هادئة، وقرأ الرجل جريدة الأمس. مُحَمَّدٌ كَتَبَ رِسَالَةً.
صبح ایستگاه آرام بود و پیرمرد روزنامه‌ی دیروز را می‌خواند.
सुबह स्टेशन पर शांति थी और बूढ़ा आदमी कल का अख़बार पढ़ रहा था। क्षेत्र में श्री गणेश आए।
সকালে স্টেশনে শান্তি ছিল, বৃদ্ধ গতকালের কাগজ পড়ছিলেন।
காலையில் நிலையம் அமைதியாக இருந்தது, முதியவர் நேற்றைய செய்தித்தாளைப் படித்தார்.
ఉదయం స్టేషన్ నిశ్శబ్దంగా ఉంది, ముసలాయన నిన్నటి పత్రిక చదువుతున్నాడు.
เช้านี้สถานีเงียบมาก ชายชรานั่งอ่านหนังสือพิมพ์ของเมื่อวาน
ព្រឹកនេះ ស្ថានីយ៍ស្ងាត់ណាស់ បុរសចំណាស់អានកាសែតម្សិលមិញ។
မနက်ခင်းမှာ ဘူတာရုံ တိတ်ဆိတ်နေတယ်။
ጠዋት ጣቢያው ጸጥ ያለ ነበር፤ ሽማግሌው የትናንቱን ጋዜጣ ያነብ ነበር።
早上车站很安静，老人在读昨天的报纸，孩子们数着十七座桥。
早晨的圖書館還沒有開門，門口已經排了很長的隊。
朝の駅は静かで、おじいさんが昨日の新聞を読んでいた。コーヒーは三百円です。ｶﾀｶﾅもある。
아침 역은 조용했고 할아버지는 어제 신문을 읽고 있었다. 커피는 삼천 원입니다.
Cafe\u0301 re\u0301sume\u0301 nai\u0308ve A\u030angstro\u0308m \u1112\u1161\u11ab\u1100\u1173\u11af Z\u0351\u036ba\u0363\u0348l\u0321.
ﬁne ﬂow ½ cup, x² + y³ = z⁴, Ⅷ ①②③ №5 ℃ Å ™ ㍿ ｆｕｌｌ ｗｉｄｔｈ
👍 👍🏽 👩🏿‍🚀 👨‍👩‍👧‍👦 🇩🇪🇫🇷🇯🇵 ❤️ ☎️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 😀😀😀 🎉🎊 1️⃣2️⃣
→ ← ∀x∈ℝ: ∃y ≤ √2 · π ≠ ∞ “quotes” ‘single’ «guillemets» — dash – en … ellipsis • bullet
"""

CODE = """
def count(pages, limit=100):
    total = 0
    for index, page in enumerate(pages):
        if page.size > limit and not page.done:
            total += page.size * 2  # twice
    return total

int main(int argc, char **argv) {
\tfor (size_t i = 0; i < 10; i++)
\t\tprintf("%zu: %s\\n", i, argv[i]);
\treturn 0;
}

{"id": 1024, "name": "press", "values": [1, 2.5, -3e10, null, true], "nested": {"key": []}}
<div class="page"><p>text &amp; more</p></div>
SELECT name, COUNT(*) FROM pages WHERE size >= 4096 GROUP BY name;
https://example.org/path/to/page?query=1&other=two#part user@example.org C:\\Users\\name
"""


def lines(seed=1, n=1500):
    """Lines of training text in a seeded order; English and code are the most frequent, as they are elsewhere."""
    rng = random.Random(seed)
    english = ENGLISH.strip().split("\n")
    others = OTHERS.strip().split("\n")
    code = CODE.strip("\n").split("\n")
    text = []
    for _ in range(n):
        kind = rng.random()
        if kind < 0.5:
            words = rng.choice(english).split(" ")
            begin = rng.randrange(len(words))
            text.append(" ".join(words[begin : begin + rng.randrange(3, 16)]))
        elif kind < 0.8:
            text.append(rng.choice(others))
        elif kind < 0.9:
            begin = rng.randrange(len(code))
            text.append("\n".join(code[begin : begin + rng.randrange(1, 4)]))
        elif kind < 0.95:
            text.append(f"{rng.randrange(10 ** rng.randrange(1, 9))} {rng.randrange(1900, 2100)}-{rng.randrange(1, 13):02}")
        else:
            text.append(rng.choice("\n\t ") * rng.randrange(1, 20) + rng.choice(english)[:20])
    return text
